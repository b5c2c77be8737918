"""The OpenAPI document is true: requests made from it, good and malformed, get what it says and never a failure."""

import json
import urllib.request
from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

OPERATIONS = ("GET /health", "GET /v1/models", "GET /v1/models/{model}", "POST /v1/chat/completions")


def document(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url.replace("/v1", "/openapi.json"), timeout=30) as response:
        told: dict[str, Any] = json.load(response)
    return told


def test_the_document_lists_what_there_is(url: str) -> None:
    told = document(url)
    listed = [f"{method.upper()} {path}" for path, methods in told["paths"].items() for method in methods]
    assert sorted(listed) == sorted(OPERATIONS)
    assert "securitySchemes" not in told["components"]
    assert all("422" not in each["responses"] for path in told["paths"].values() for each in path.values())


def called(url: str, operation: str, mode: GenerationMode, number: int) -> Counter[int]:
    """Statuses of what schemathesis makes for one operation; each response is compared with the document."""
    method, path = operation.split()
    schema = schemathesis.openapi.from_dict(document(url))
    schema.config.update(base_url=url.removesuffix("/v1"))
    seen = Counter[int]()

    @settings(
        max_examples=number, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
            # Any other model is 404, long before the rest is looked at.
            case.body |= {"model": "limbeck", "max_completion_tokens": 4}
        response = case.call(timeout=30)
        seen[response.status_code] += 1
        # What two fields must not say together (top_p beside a temperature) no JSON Schema tells: a 400 is fine.
        case.validate_response(response, excluded_checks=[positive_data_acceptance])

    check()
    return seen


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_is_made_from_the_document_gets_what_it_says(url: str, operation: str) -> None:
    seen = called(url, operation, GenerationMode.POSITIVE, 20)
    assert set(seen) <= {200, 400, 404}
    if "{model}" not in operation:
        assert seen[200]


def test_what_is_malformed_is_refused_and_never_a_failure(url: str) -> None:
    assert set(called(url, OPERATIONS[-1], GenerationMode.NEGATIVE, 50)) <= {400, 404, 405}
