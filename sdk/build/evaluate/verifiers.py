"""An instruction of IFEval and a response in; whether the response follows it, or that this cannot be said here, out.

Each check follows the published definition. Three kinds need a language detector or a trained word or sentence splitter
and are not scored: `language:response_language`, `length_constraints:number_sentences`,
`change_case:capital_word_frequency`. The two of letter case count the case alone, where the published check asks a
detector for English too.

Source: Zhou et al., arXiv:2311.07911, and github.com/google-research/google-research/tree/master/
instruction_following_eval (Apache-2.0), whose behaviour is described here and whose code is not copied.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["NOT_SCORED", "follows"]

NOT_SCORED = frozenset(
    {"language:response_language", "length_constraints:number_sentences", "change_case:capital_word_frequency"}
)
"""Kinds whose published check needs a language detector, a sentence splitter or a word splitter."""

ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
FENCES = ("```json", "```Json", "```JSON", "```")


def follows(kind: str, wanted: Mapping[str, Any], response: str) -> bool | None:
    """Whether a response follows an instruction; None for a kind that is not scored.

    Args:
        kind: The instruction's id, such as "punctuation:no_comma".
        wanted: Its arguments.
        response: What the model wrote; an empty one follows nothing.
    """
    if kind in NOT_SCORED or kind not in CHECKS:
        return None
    return bool(response.strip()) and CHECKS[kind](response, wanted)


def _compared(found: int, relation: str, limit: int) -> bool:
    return found < limit if relation == "less than" else found >= limit


def _bullets(response: str, wanted: Mapping[str, Any]) -> bool:
    stars = re.findall(r"^\s*\*[^\*].*$", response, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", response, re.MULTILINE)
    return len(stars) + len(dashes) == int(wanted["num_bullets"])


def _highlights(response: str, wanted: Mapping[str, Any]) -> bool:
    single = [part for part in re.findall(r"\*[^\n\*]*\*", response) if part.strip("*").strip()]
    double = [part for part in re.findall(r"\*\*[^\n\*]*\*\*", response) if part[2:-2].strip()]
    return len(single) + len(double) >= int(wanted["num_highlights"])


def _sections(response: str, wanted: Mapping[str, Any]) -> bool:
    marks = re.findall(rf"\s?{wanted['section_spliter'].strip()}\s?\d+\s?", response)
    return len(marks) >= int(wanted["num_sections"])


def _paragraphs(response: str, wanted: Mapping[str, Any]) -> bool:
    parts = [bool(part.strip()) for part in re.split(r"\s?\*\*\*\s?", response)]
    if not all(parts[1:-1]):
        return False  # An empty paragraph may stand at an end only.
    return sum(parts) == int(wanted["num_paragraphs"])


def _first_word(response: str, wanted: Mapping[str, Any]) -> bool:
    parts, place = response.split("\n\n"), int(wanted["nth_paragraph"])
    count = sum(bool(part.strip()) for part in parts)
    if place > count or not (paragraph := parts[place - 1].strip()):
        return False
    word = re.split(r"[.,?!'\"]", paragraph.split()[0].lstrip("'").lstrip('"'))[0].lower()
    return count == int(wanted["num_paragraphs"]) and word == str(wanted["first_word"]).lower()


def _postscript(response: str, wanted: Mapping[str, Any]) -> bool:
    marker = wanted["postscript_marker"].strip()
    patterns = {"P.P.S": r"\s*p\.\s?p\.\s?s.*$", "P.S.": r"\s*p\.\s?s\..*$"}
    return bool(re.search(patterns.get(marker, rf"\s*{marker.lower()}.*$"), response.lower(), re.MULTILINE))


def _json(response: str, _: Mapping[str, Any]) -> bool:
    text = response.strip()
    for fence in FENCES:
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _two_responses(response: str, _: Mapping[str, Any]) -> bool:
    parts = [part.strip() for part in response.split("******")]
    if not all(parts[1:-1]):
        return False
    said = [part for part in parts if part]
    return len(said) == 2 and said[0] != said[1]


def _title(response: str, _: Mapping[str, Any]) -> bool:
    return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", response))


def _keyword_count(response: str, wanted: Mapping[str, Any]) -> bool:
    found = len(re.findall(wanted["keyword"].strip(), response, re.IGNORECASE))
    return _compared(found, wanted["relation"], wanted["frequency"])


def _letter_count(response: str, wanted: Mapping[str, Any]) -> bool:
    found = response.lower().count(wanted["letter"].strip().lower())
    return _compared(found, wanted["let_relation"], wanted["let_frequency"])


def _repeated(response: str, wanted: Mapping[str, Any]) -> bool:
    return response.strip().lower().startswith(str(wanted["prompt_to_repeat"]).strip().lower())


def _ending(response: str, wanted: Mapping[str, Any]) -> bool:
    return response.strip().strip('"').lower().endswith(str(wanted["end_phrase"]).strip().lower())


def _quoted(response: str, _: Mapping[str, Any]) -> bool:
    text = response.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


CHECKS: Mapping[str, Callable[[str, Mapping[str, Any]], bool]] = {
    "change_case:english_capital": lambda response, _: response.isupper(),
    "change_case:english_lowercase": lambda response, _: response.islower(),
    "combination:repeat_prompt": _repeated,
    "combination:two_responses": _two_responses,
    "detectable_content:number_placeholders": lambda response, wanted: (
        len(re.findall(r"\[.*?\]", response)) >= int(wanted["num_placeholders"])
    ),
    "detectable_content:postscript": _postscript,
    "detectable_format:constrained_response": lambda response, _: any(answer in response for answer in ANSWERS),
    "detectable_format:json_format": _json,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:title": _title,
    "keywords:existence": lambda response, wanted: all(
        re.search(word, response, re.IGNORECASE) for word in wanted["keywords"]
    ),
    "keywords:forbidden_words": lambda response, wanted: (
        not any(re.search(rf"\b{word}\b", response, re.IGNORECASE) for word in wanted["forbidden_words"])
    ),
    "keywords:frequency": _keyword_count,
    "keywords:letter_frequency": _letter_count,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": lambda response, wanted: _compared(
        len(re.findall(r"\w+", response)), wanted["relation"], wanted["num_words"]
    ),
    "punctuation:no_comma": lambda response, _: "," not in response,
    "startend:end_checker": _ending,
    "startend:quotation": _quoted,
}
"""Kind to its check, given a response that is not empty and the instruction's arguments."""
