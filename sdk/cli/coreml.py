"""The maker's commands for Core ML: a student compressed, compiled, checked and run, all on any machine."""

from dataclasses import asdict
from pathlib import Path

import click

from sdk.cli.options import answer, json_option, shown_progress
from sdk.errors import PackageError
from sdk.tokens import chat_tokens

__all__ = ["compress", "coreai", "coreml", "execute", "lint"]

student = click.argument("student", type=click.Path(path_type=Path, exists=True, file_okay=False))
package = click.argument("package", type=click.Path(path_type=Path))


@click.command()
@student
@click.option("--scheme", required=True, help="int8, int4, palette4, palette6, …; a wrong name lists them.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write; must not exist.")
@click.option("--healed-from", type=click.Path(path_type=Path), help="The student before training: must not snap back.")
@click.option(
    "--grid-of", type=click.Path(path_type=Path), help="The version before: keep its scales, for small deltas."
)
@json_option
def compress(
    student: Path, scheme: str, out: Path, healed_from: Path | None, grid_of: Path | None, as_json: bool
) -> None:
    """Put a student's weights on a smaller grid; `build coreml` carries it into the package exactly."""
    from sdk.build.compress import compress as run

    with shown_progress() as tell:
        made = run(student, out, scheme, healed_from=healed_from, grid_of=grid_of, progress=tell)
    worst = max(made.errors, key=lambda name: made.errors[name])
    facts = {
        "folder": str(out),
        "scheme": scheme,
        "bytes": made.bytes,
        "bits": made.bits,
        "errors": dict(made.errors),
        "worst": worst,
        "kept_scales": made.kept_scales,
    }
    words = (
        f"{scheme}: {made.bytes / 1e6:.1f} MB, {made.bits:.2f} bits a weight, read back and equal\n"
        f"largest error {made.errors[worst]:.3f} of the weights' norm, in {worst}\n"
        f"in {out}; what it costs in quality: limbeck build evaluate {out}"
    )
    if made.kept_scales is not None:
        words += f"\n{made.kept_scales:.0%} of its scales are those of {grid_of}"
    answer(facts, words, as_json=as_json)


@click.command()
@student
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The .mlpackage to write; must not exist.")
@click.option("--context", type=int, default=512, show_default=True, help="Positions of the cache.")
@click.option("--prefill", type=int, default=32, show_default=True, help="Positions of one prefill call.")
@click.option(
    "--cache",
    type=click.Choice(["state", "arrays"]),
    default="state",
    show_default=True,
    help="Where keys and values live: in the model, or with the caller as inputs and outputs.",
)
@click.option("--adapter-layers", type=int, default=4, show_default=True, help="Upper layers that take an adapter.")
@click.option("--adapter-rank", type=int, default=8, show_default=True, help="Largest rank of an adapter.")
@click.option("--learns", type=click.Choice(["lora", "frozen-a", "xs", "basis"]), help="Also learn such an adapter.")
@click.option("--basis", type=click.Path(path_type=Path, exists=True, file_okay=False), help="With basis: its folder.")
@click.option("--records", type=click.IntRange(1, 8), default=4, show_default=True, help="Records of a learning call.")
@click.option("--record-positions", type=click.IntRange(2), default=64, show_default=True, help="Positions of each.")
@json_option
def coreml(
    student: Path,
    out: Path,
    context: int,
    prefill: int,
    cache: str,
    adapter_layers: int,
    adapter_rank: int,
    learns: str | None,
    basis: Path | None,
    records: int,
    record_positions: int,
    as_json: bool,
) -> None:
    """Compile a student for the Neural Engine, and compare the package with torch before it is kept.

    With --learns the package also holds one step of private learning: records in, the sum of their clipped gradients
    out. Noise is added by the caller, once, to the sum over all calls.
    """
    from sdk.build.coreml.convert import Plan, convert
    from sdk.build.coreml.layout import Cache

    plan = Plan(
        context=context,
        prefill_positions=prefill,
        cache=Cache(cache),
        adapter_layers=adapter_layers,
        adapter_rank=adapter_rank,
        learns=learns or "",
        records=records,
        record_positions=record_positions,
    )
    with shown_progress() as tell:
        made = convert(student, out, plan, basis=basis, progress=tell)
    facts = {
        "package": str(made.package),
        "bytes": made.bytes,
        "operations": dict(made.operations),
        "encoded": made.encoded,
        "difference": made.difference,
        "learning": dict(made.learning),
        "base_digest": made.contract.base_digest,
    }
    words = (
        f"{made.package}: {made.bytes / 1e6:.1f} MB, iOS 18 and macOS 15, {made.encoded} weights compressed\n"
        f"differs from torch by {made.difference:.2e} of the largest logit, run here by the interpreter\n"
        + "".join(f"clipped sums off torch's by {off:.1e} ({name})\n" for name, off in made.learning.items())
        + "not run on a device: where and how fast it runs there is not known"
    )
    answer(facts, words, as_json=as_json)


@click.command()
@student
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The .aimodel to write; must not exist.")
@click.option("--context", type=int, default=512, show_default=True, help="Positions of the cache.")
@click.option("--prefill", type=int, default=32, show_default=True, help="Positions of one prefill call.")
@click.option("--adapter-layers", type=int, default=4, show_default=True, help="Upper layers that take an adapter.")
@click.option("--adapter-rank", type=int, default=8, show_default=True, help="Largest rank of an adapter.")
@json_option
def coreai(
    student: Path, out: Path, context: int, prefill: int, adapter_layers: int, adapter_rank: int, as_json: bool
) -> None:
    """Compile a student for Core AI (iOS 27, macOS 27), and let its CPU runtime answer before it is kept.

    Needs the extra: pip install 'limbeck[coreai]'.
    """
    from sdk.build.coreai import convert_for_core_ai
    from sdk.build.coreml.convert import Plan
    from sdk.build.coreml.layout import Cache

    plan = Plan(
        context=context,
        prefill_positions=prefill,
        cache=Cache.ARRAYS,
        adapter_layers=adapter_layers,
        adapter_rank=adapter_rank,
    )
    with shown_progress() as tell:
        made = convert_for_core_ai(student, out, plan, progress=tell)
    facts = {"asset": str(made.asset), "bytes": made.bytes, "difference": made.difference}
    words = (
        f"{made.asset}: {made.bytes / 1e6:.1f} MB, iOS 27 and macOS 27, weights float16\n"
        f"differs from torch by {made.difference:.2e} of the largest logit, run here by Core AI's CPU runtime\n"
        "not run on a device: where and how fast it runs there is not known"
    )
    answer(facts, words, as_json=as_json)


@click.command()
@package
@click.option("--strict", is_flag=True, help="Exit code 1 for any error or warning that is not suppressed.")
@click.option(
    "--allow",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSON list of accepted rules, each with rule, reason and if wanted a tensor pattern.",
)
@click.option("--page", type=click.Path(path_type=Path, dir_okay=False), help="Write a page: rules, time, bytes.")
@click.option("--placement", is_flag=True, help="On macOS: ask Core ML where operations run, beside the guess.")
@click.option("--unit-tflops", type=click.FloatRange(0, min_open=True), help="Of the floor: float16 TFLOP/s. [M1: 5.5]")
@click.option("--unit-gbps", type=click.FloatRange(0, min_open=True), help="Of the floor: GB/s of memory. [M1: 55]")
@json_option
def lint(
    package: Path,
    strict: bool,
    allow: Path | None,
    page: Path | None,
    placement: bool,
    unit_tflops: float | None,
    unit_gbps: float | None,
    as_json: bool,
) -> None:
    """Say what may keep a package off the Neural Engine, each with its source, and the floor under its time."""
    from sdk.build.coreml.lint import lint as run
    from sdk.build.coreml.lint import read_suppressions, standing
    from sdk.build.coreml.page import grouped, write_lint_page
    from sdk.build.coreml.placement import compared, placements
    from sdk.build.coreml.program import Package
    from sdk.build.coreml.roofline import by_block, costs, unit_of
    from sdk.build.coreml.rules import RULES

    hits = run(package, read_suppressions(allow) if allow else ())
    left, unit, found = standing(hits), unit_of(unit_tflops, unit_gbps), costs(Package.open(package))
    blocks = by_block(found, unit)
    plan = compared(placements(package), hits) if placement else None
    if page is not None:
        write_lint_page(page, package.name, hits, found, unit)
    lines = [
        f"{row['severity']:8}{row['rule']}: {row['function']} {row['places']} ×, first {row['first']} {row['line']}\n"
        f"        {row['says']} [{row['source']}]" + (f"\n        accepted: {row['reason']}" * bool(row["reason"]))
        for row in grouped(hits)
    ]
    lines += [
        f"{name}: at least {1e3 * sum(made.seconds for made in parts.values()):.2f} ms a call on the {unit.name}"
        for name, parts in blocks.items()
    ]
    lines.append(f"{len(left)} to look at, {len(hits) - len(left)} notes or accepted; advice, not a measurement")
    facts = {
        "hits": [asdict(hit) | {"source": RULES[hit.rule].source} for hit in hits],
        "standing": len(left),
        "unit": asdict(unit),
        "blocks": {name: {block: asdict(made) for block, made in parts.items()} for name, parts in blocks.items()},
        "operations": [
            asdict(cost) | {"seconds": cost.seconds(unit), "bound": cost.bound(unit)} for cost in found if cost.flops
        ],
    }
    if plan is not None:
        facts["placement"] = asdict(plan)
        lines += [
            f"Core ML puts {plan.on_unit} operations on the Neural Engine and {plan.elsewhere} elsewhere, of which "
            f"{len(plan.unforeseen)} no rule foresaw; {len(plan.needless)} that a rule sent away stay",
            *(
                f"elsewhere unforeseen: {one.function} {one.operation} {one.output}, {one.device}"
                for one in plan.unforeseen
            ),
        ]
    answer(facts, "\n".join(lines), as_json=as_json)
    if strict and left:
        raise PackageError(
            f"{package} breaks {left[0].rule} and {len(left) - 1} more; repair them, or accept with --allow"
        )


@click.command()
@package
@click.option("--prompt", required=True, help="What is asked, as one user turn.")
@click.option("--tokens", type=click.IntRange(1), default=100, show_default=True, help="Largest answer.")
@click.option("--adapter", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Folder of an adapter.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "declared"]),
    default="fp32",
    show_default=True,
    help="Compute in float32, or round every operation to its declared type.",
)
@click.option("--watch", is_flag=True, help="Report overflow, NaN and subnormal outputs.")
@json_option
def execute(
    package: Path, prompt: str, tokens: int, adapter: Path | None, precision: str, watch: bool, as_json: bool
) -> None:
    """Run a compiled student on this machine: its greedy answer to a prompt."""
    import time

    import torch

    from sdk.build.coreml.conversation import Conversation

    torch.set_num_threads(1)  # Operations of one position are too small to share.
    conversation = Conversation.open(package, adapter=adapter, precision=precision, watch=watch)
    tokenizer = conversation.tokenizer()
    asked = chat_tokens(tokenizer, [{"role": "user", "content": prompt}])
    start = time.perf_counter()
    ids = list(conversation.write(asked, tokens, stop=frozenset(tokenizer.all_special_ids)))
    seconds = time.perf_counter() - start
    findings = [asdict(finding) for finding in conversation.session.findings]
    facts = {"answer": tokenizer.decode(ids), "tokens": ids, "seconds": seconds, "findings": findings}
    told = [f"{one['kind']}: {one['operation']} {one['output']}, {one['calls']} calls" for one in findings]
    answer(facts, "\n".join([str(facts["answer"]), *told]), as_json=as_json)
