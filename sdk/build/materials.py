"""What a student was made of in, its bill of materials out: CycloneDX 1.6, a machine-learning model and its parts.

Source: ECMA-424, CycloneDX 1.6, `component.modelCard`.
"""

import json
from collections.abc import Mapping
from typing import Any

from sdk.build.teachers.licences import SHIPPABLE, together

__all__ = ["bill_of_materials", "licence_of_student"]


def licence_of_student(training: Mapping[str, Any]) -> str:
    """Under what a student may be passed on: the licences of all who taught it, joined by AND.

    Args:
        training: What training.json says.
    """
    return together([training["licence"], *(one["licence"] for one in training.get("answers_by", []))])


def bill_of_materials(*, name: str, version: str, digest: str, training: dict[str, Any], sources: list[str]) -> str:
    """The bill as JSON, one final newline; the same inputs give the same bytes, so it states no time.

    Args:
        name: Of the bundle.
        version: Of the bundle.
        digest: SHA-256 of model.safetensors, 64 hex digits.
        training: What training.json says.
        sources: Names of the text and task files of the plan.
    """
    taught = [(training["teacher"], training["licence"])]
    taught += [(one["teacher"], one["licence"]) for one in training.get("answers_by", [])]
    teachers: list[dict[str, Any]] = [
        {
            "type": "machine-learning-model",
            "bom-ref": f"teacher-{place}" if place else "teacher",
            "name": str(teacher),
            "licenses": _licences(licence),
        }
        for place, (teacher, licence) in enumerate(taught)
    ]
    data = [{"type": "data", "bom-ref": f"data-{place}", "name": source} for place, source in enumerate(sources)]
    model = {
        "type": "machine-learning-model",
        "bom-ref": "student",
        "name": name,
        "version": version,
        "licenses": _licences(licence_of_student(training)),
        "hashes": [{"alg": "SHA-256", "content": digest}],
        "pedigree": {"ancestors": [{key: teachers[0][key] for key in ("type", "name", "licenses")}]},
        "modelCard": {
            "modelParameters": {
                "approach": {"type": "supervised"},
                "task": "text generation",
                "architectureFamily": "Llama",
                "modelArchitecture": "LlamaForCausalLM",
                "datasets": [{"ref": one["bom-ref"]} for one in data],
            },
        },
    }
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": model},
        "components": [*teachers, *data],
        "dependencies": [{"ref": "student", "dependsOn": [one["bom-ref"] for one in (*teachers, *data)]}],
    }
    return json.dumps(bill, indent=2) + "\n"


def _licences(stated: str) -> list[dict[str, dict[str, str]]]:
    """Each licence by its SPDX identifier where we know that it is one, else by name."""
    return [
        {"license": {"id": SHIPPABLE[one.lower()]} if one.lower() in SHIPPABLE else {"name": one}}
        for one in stated.split(" AND ")
    ]
