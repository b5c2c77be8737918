"""How far the router's parts go: out-of-scope requests of CLINC150 told from others, and personal data found.

    python -m tests.bench.router scope MODEL DATA    AUROC on CLINC150 with 95 % intervals, in about 4 CPU minutes
    python -m tests.bench.router redaction           share of a labelled set that is redacted whole, and traps altered

MODEL is a model folder or a bundle, DATA the folder with data_full.json. In scope are the 150 intents; 15 requests of
each from the training split teach the detectors, which see no out-of-scope request. Layer and pooling are chosen on the
validation split, figures are of the test split. Baselines on the same states: the largest probability and the energy of
a softmax regression to the 150 intents; and the model's own next token's.
"""

import json
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from sdk.build.evaluate.decoding import chat_tokens
from sdk.build.evaluate.opened import open_model
from sdk.confidence.calibration import auroc
from sdk.confidence.scope import Scope
from sdk.device.handoff.redaction import redact
from tests.personal_data import CONTACTS, TRAPS
from tests.sdk.device.handoff.test_found import recall

EACH = {"train": 15, "val": 2, "test": 2}  # In-scope requests of each intent.
OUTSIDE_AT_MOST = 300
OUTSIDE = "oos"
RESAMPLES = 200
BATCH = 32


def requests(file: Path) -> dict[str, list[tuple[str, str]]]:
    """Split to (request, intent): a seeded choice in scope, and out-of-scope requests for validation and test."""
    data = json.loads(file.read_bytes())
    splits = {}
    for split, each in EACH.items():
        by_intent: dict[str, list[str]] = {}
        for text, intent in data[split]:
            by_intent.setdefault(intent, []).append(text)
        inside = [(text, intent) for intent, texts in by_intent.items() for text in Random(7).sample(texts, each)]
        outside = [(text, OUTSIDE) for text, _ in data[f"oos_{split}"][:OUTSIDE_AT_MOST]] if split != "train" else []
        splits[split] = inside + outside
    return splits


@torch.no_grad()
def states(model: Any, tokenizer: Any, texts: list[str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Pooled states by name, each (requests, width), and largest probability and energy of the next token."""
    encoded = [chat_tokens(tokenizer, text) for text in texts]
    by_length: dict[int, list[int]] = {}
    for place, ids in enumerate(encoded):
        by_length.setdefault(len(ids), []).append(place)
    groups = [places[at : at + BATCH] for places in by_length.values() for at in range(0, len(places), BATCH)]
    order: list[int] = []
    pooled: dict[str, list[np.ndarray]] = {}
    own, done = [], 0
    count = model.config.num_hidden_layers
    for group in groups:  # Of one length each: no padding.
        tokens = torch.tensor([encoded[place] for place in group])  # (batch, seq)
        made = model(input_ids=tokens, output_hidden_states=True, use_cache=False, logits_to_keep=1)
        for layer in range(count // 3, count + 1, max(1, count // 6)):
            hidden = made.hidden_states[layer].double()  # (batch, seq, width)
            pooled.setdefault(f"layer {layer}, last token", []).append(hidden[:, -1].numpy())
            pooled.setdefault(f"layer {layer}, mean", []).append(hidden[:, 1:].mean(1).numpy())
        logits = made.logits[:, -1]  # (batch, vocab)
        own.append(torch.stack([logits.softmax(1).amax(1), logits.logsumexp(1)], 1).double().numpy())
        order += group
        done += len(group)
        print(f"\r  {done} of {len(encoded)}", end="", file=sys.stderr)
    back = np.argsort(order)
    return {name: np.concatenate(rows)[back] for name, rows in pooled.items()}, np.concatenate(own)[back]


def regression(rows: np.ndarray, intents: list[str]) -> Any:
    """A softmax regression with a small penalty; returns a function from states to logits."""
    names = sorted(set(intents))
    mean, scale = rows.mean(0), rows.std(0) + 1e-6
    inputs = torch.tensor((rows - mean) / scale, dtype=torch.float32)
    wanted = torch.tensor([names.index(intent) for intent in intents])
    layer = torch.nn.Linear(inputs.shape[1], len(names))
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=60)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(layer(inputs), wanted) + 1e-3 * (layer.weight**2).sum() / 2
        value.backward()
        return value

    optimizer.step(loss)
    return lambda new: layer(torch.tensor((new - mean) / scale, dtype=torch.float32)).detach()


def with_interval(scores: np.ndarray, outside: list[bool]) -> str:
    """AUROC and its bootstrap interval, requests resampled."""
    rng, flags = np.random.default_rng(1), np.array(outside)
    drawn = []
    for _ in range(RESAMPLES):
        some = rng.integers(0, len(scores), len(scores))
        drawn.append(auroc(scores[some].tolist(), flags[some].tolist()) or 0.5)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{auroc(scores.tolist(), outside):.3f} [{low:.3f}, {high:.3f}]"


def scope(model_folder: Path, data: Path) -> None:
    opened = open_model(model_folder)
    splits = requests(data / "data_full.json")
    found = {}
    for split, rows in splits.items():
        print(split, len(rows), file=sys.stderr)
        found[split] = states(opened.model, opened.tokenizer, [text for text, _ in rows])
    intents = [intent for _, intent in splits["train"]]
    outside = {split: [intent == OUTSIDE for _, intent in rows] for split, rows in splits.items()}
    on_validation = {}
    for name, pooled in found["train"][0].items():
        far = Scope.fit(pooled, intents).strangeness(found["val"][0][name])
        on_validation[name] = auroc(far.tolist(), outside["val"]) or 0.5
        print(f"  validation {name}: {on_validation[name]:.3f}", file=sys.stderr)
    best = max(on_validation, key=lambda name: on_validation[name])
    train, test = found["train"][0][best], found["test"][0][best]
    logits = regression(train, intents)(test)
    right = [
        sorted(set(intents))[int(row.argmax())] == intent
        for row, (_, intent) in zip(logits, splits["test"], strict=True)
    ]
    own = found["test"][1]
    inside = [good for good, out in zip(right, outside["test"], strict=True) if not out]
    print(f"{sum(outside['test'])} out of scope, {len(inside)} in scope; states of {best}, chosen on validation")
    print(f"softmax regression: {sum(inside) / len(inside):.1%} of intents right")
    for name, scores in {
        "strangeness": Scope.fit(train, intents).strangeness(test),
        "Mahalanobis": Scope.fit(train, intents).distances(test),
        "largest probability": -logits.softmax(1).max(1).values.numpy(),
        "energy": -logits.logsumexp(1).numpy(),
        "next token's probability": -own[:, 0],
        "next token's energy": -own[:, 1],
    }.items():
        print(f"AUROC {name:<26} {with_interval(np.asarray(scores), outside['test'])}")


def redaction() -> None:
    for kind, share in recall(each=200).items():
        print(f"{kind:<9} {share:6.1%} of 200 replaced whole")
    altered = [text for text in TRAPS if redact(text, CONTACTS).text != text]
    print(f"{len(altered)} of {len(TRAPS)} texts without anything personal altered: {'; '.join(altered)}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["scope", model, data]:
            torch.set_num_threads(1)
            scope(Path(model), Path(data))
        case ["redaction"]:
            redaction()
        case _:
            sys.exit(__doc__)
