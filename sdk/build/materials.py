"""What a student was made of in, its bill of materials out: CycloneDX 1.6, a machine-learning model and its parts.

Source: ECMA-424, CycloneDX 1.6, `component.modelCard`; checked against the published JSON schema in tests.
"""

import json
from typing import Any

__all__ = ["bill_of_materials"]


def bill_of_materials(*, name: str, version: str, digest: str, training: dict[str, Any], sources: list[str]) -> str:
    """The bill as JSON, one final newline; the same inputs give the same bytes, so it states no time.

    Args:
        name: Of the bundle.
        version: Of the bundle.
        digest: SHA-256 of model.safetensors, 64 hex digits.
        training: What training.json says.
        sources: Names of the text and task files of the plan.
    """
    teacher = {
        "type": "machine-learning-model",
        "bom-ref": "teacher",
        "name": str(training["teacher"]),
        "licenses": [{"license": {"id": str(training["licence"])}}],
    }
    data = [{"type": "data", "bom-ref": f"data-{place}", "name": source} for place, source in enumerate(sources)]
    model = {
        "type": "machine-learning-model",
        "bom-ref": "student",
        "name": name,
        "version": version,
        "licenses": [{"license": {"id": "Apache-2.0"}}],
        "hashes": [{"alg": "SHA-256", "content": digest}],
        "pedigree": {"ancestors": [{key: teacher[key] for key in ("type", "name", "licenses")}]},
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
        "components": [teacher, *data],
        "dependencies": [{"ref": "student", "dependsOn": ["teacher", *(one["bom-ref"] for one in data)]}],
    }
    return json.dumps(bill, indent=2) + "\n"
