"""What a gateway says is wrong, as JSON that a client recognises.

Source: RFC 9457 (problem details), RFC 9458, sections 5.3 and 6.5.2.
"""

import json

__all__ = ["DATE_PROBLEM", "KEY_PROBLEM", "PROBLEM_TYPE", "is_problem", "problem"]

PROBLEM_TYPE = "application/problem+json"
KEY_PROBLEM = "https://iana.org/assignments/http-problem-types#ohttp-key"
DATE_PROBLEM = "https://iana.org/assignments/http-problem-types#date"
MAX_PROBLEM_BYTES = 4096  # A problem is a line; what is longer is something else.


def problem(title: str, kind: str = "about:blank") -> bytes:
    """A problem's JSON."""
    return json.dumps({"type": kind, "title": title}).encode()


def is_problem(content: bytes, kind: str) -> bool:
    """Whether the content is a problem of this kind."""
    try:
        found = json.loads(content) if len(content) <= MAX_PROBLEM_BYTES else None
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("type") == kind
