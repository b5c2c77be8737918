"""The result of one night in, one self-contained page for a person out.

The page needs no network and no script; it follows the reader's light or dark setting and can be printed. Texts in it
come from people's files, so the template escapes whatever it is given. A value that is missing or not a number is shown
as a dash, never invented.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from privacy.whole_file import replace_whole
from sdk.demo.figures import Axis, Interval, bars, dots, histogram, mean_with_interval
from sdk.errors import SdkError

__all__ = ["write_page"]

Result = Mapping[str, Any]

TEMPLATES = Path(__file__).parent / "templates"
DASH = "–"
POINTS = ("percentage points", "pp", "%")  # Units with two digits after the point; losses get three.
MOST_LIMITS = 4.0  # A collapsed leg would squeeze the others; from here on the drawing says "beyond this scale".
THIN = "\u202f"  # A narrow space that does not break: 2.5 % stays on one line.
# key → name in tables and drawings, and what it is in a few words.
ARMS = {
    "base": ("Base model", "as it ships; it knows nothing of this person"),
    "start": ("Starting point", "learned from other people’s public text; costs no privacy"),
    "adapter": ("Private adapter", "the starting point after this night, under privacy"),
    "nonprivate": ("Same night, no privacy", "what protection costs: nothing is clipped or noised"),
    "wrong_user": ("Someone else’s adapter", "the control: another person’s adapter on the same text"),
}
UNITS = {"record": "one record", "message": "one record", "conversation": "one conversation", "day": "one day"}
NEIGHBOURS = {
    "zero_out": "one of them replaced by an empty one",
    "add_or_remove": "one of them added or taken away",
    "replace": "one of them replaced by any other",
}


def write_page(result: Result, path: Path) -> None:
    """Write the report of a night to `path`, whole or not at all, readable by its owner only.

    Args:
        result: What `limbeck demo --json` prints. Every key is optional.
        path: The HTML file; an older one is replaced.

    Raises:
        SdkError: The file cannot be written; an older report stays as it was.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "signed": signed,
        "percent": percent,
        "chance": chance,
        "duration": duration,
    }
    page = environment.get_template("report.html.jinja").render(view(result))
    try:
        replace_whole(path, page.encode())
    except OSError as cause:
        raise SdkError(f"cannot write the report to {path}: {cause.strerror}; choose another place") from cause


def view(result: Result) -> dict[str, Any]:
    """What the template shows, from what was measured."""
    legs, since = _legs(result), _since(result)
    unit = str(result.get("unit") or "record").lower()
    neighbours = str(result.get("neighbours") or "zero_out").lower()
    return {
        "person": str(result.get("person") or "this person"),
        "source": result.get("source"),
        "admitted": result.get("admitted"),
        "headline": _headline(result),
        "since": since,
        "gain": _relative(result, since, "adapter"),
        "gain_interval": _ends(result.get("gain")),
        "other": str(result.get("wrong_user") or "somebody else"),
        "over_other": _ends(result.get("gain_over_wrong_user")),
        "gain_over_base": _relative(result, "base", "adapter"),
        "start_gain": _relative(result, "base", "start"),
        "wrong_user_gain": _relative(result, since, "wrong_user"),
        "kept_share": _kept_share(result),
        "arms": _arms(result),
        "closer": _closer(result),
        "histogram": _histogram(result),
        "legs": legs,
        "legs_held": sum(bool(leg["passed"]) for leg in legs),
        "budget": _budget(result),
        "certainty": _certainty(result.get("epsilon")),
        "unit": UNITS.get(unit, unit),
        "neighbours": NEIGHBOURS.get(neighbours, neighbours),
        "counts_public": neighbours != "add_or_remove",
        "phases": _phases(result),
        "samples": [_sample(sample) for sample in result.get("samples") or []],
        **{
            key: finite(result.get(key))
            for key in (
                "records", "train_records", "test_records", "epsilon", "epsilon_pld", "epsilon_left", "delta",
                "noise_multiplier", "steps", "nights", "alpha", "seconds", "peak_megabytes",
            )
        },
    }  # fmt: skip


# --- numbers as people read them -------------------------------------------------------------------------------------


def finite(value: object) -> float | None:
    """The value as a number, or None for whatever is not a finite one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def number(value: object, digits: int = 2) -> str:
    """A number with so many digits after the point and a real minus sign."""
    known = finite(value)
    if known is None:
        return DASH
    text = f"{known:,.{digits}f}"
    return (text if text.strip("-0.,") else text.lstrip("-")).replace("-", "−")


def signed(value: object, digits: int = 2) -> str:
    """The same with a plus sign where it is due."""
    text = number(value, digits)
    return text if text[0] in f"−{DASH}" or not text.strip("0.,") else f"+{text}"


def percent(share: object, digits: int = 1) -> str:
    """A share between 0 and 1 in percent."""
    known = finite(share)
    return DASH if known is None else f"{number(known * 100, digits)}{THIN}%"


def chance(probability: object) -> str:
    """A small probability as people say it: 1 in 100,000."""
    known = finite(probability)
    return DASH if known is None or not 0 < known < 1 else f"1 in {round(1 / known):,}"


def duration(seconds: object) -> str:
    """Seconds in words: 4 min 12 s."""
    known = finite(seconds)
    if known is None:
        return DASH
    if known < 59.95:
        return f"{known:.1f} s"
    minutes, rest = divmod(round(known), 60)
    return f"{minutes} min {rest:02d} s"


# --- what was gained -------------------------------------------------------------------------------------------------


def _bits(result: Result, arm: str) -> float | None:
    return finite(result.get(f"{arm}_bits_per_char"))


def _since(result: Result) -> str:
    """The model that the night began with, to which its gain is counted."""
    return "base" if _bits(result, "start") is None else "start"


def _relative(result: Result, before: str, after: str) -> float | None:
    """Bits per character saved, as a share of what was needed before."""
    old, new = _bits(result, before), _bits(result, after)
    return None if not old or new is None else (old - new) / old


def _kept_share(result: Result) -> float | None:
    """How much of the gain without privacy the private night kept; None where there was nothing to keep."""
    since = _since(result)
    private, free = _relative(result, since, "adapter"), _relative(result, since, "nonprivate")
    return None if private is None or free is None or free <= 0 or private <= 0 else private / free


def _interval(result: Result, arm: str) -> Interval | None:
    pair = (result.get("intervals") or {}).get(arm) or ()
    return _ends(dict(zip(("low", "high"), pair, strict=False)))


def _ends(measured: Result | None) -> Interval | None:
    """The 95 % interval of something measured as {"mean", "low", "high"}."""
    low, high = (finite((measured or {}).get(end)) for end in ("low", "high"))
    return None if low is None or high is None else (low, high)


def _arms(result: Result) -> list[dict[str, Any]]:
    known = [arm for arm in ARMS if _bits(result, arm) is not None]
    drawn = bars([_bits(result, arm) or 0.0 for arm in known], [_interval(result, arm) for arm in known])
    return [
        {
            "key": arm,
            "name": ARMS[arm][0],
            "meaning": ARMS[arm][1],
            "bits": _bits(result, arm),
            "change": None if arm == "base" else _relative(result, "base", arm),
            "accuracy": finite(result.get(f"{arm}_next_word_accuracy")),
            "bar": bar,
        }
        for arm, bar in zip(known, drawn, strict=True)
    ]


def _closer(result: Result) -> dict[str, Any] | None:
    """The same values on a scale that does not start at zero, so that small differences can be seen."""
    known = [arm for arm in ARMS if _bits(result, arm) is not None]
    if len(known) < 2:
        return None
    values, intervals = [_bits(result, arm) or 0.0 for arm in known], [_interval(result, arm) for arm in known]
    axis = Axis.around([*values, *(end for pair in intervals if pair for end in pair)], margin=4)
    placed = dots(axis, values, intervals)
    return {
        "ticks": _ticks(axis),
        "rows": [{"key": arm, "name": ARMS[arm][0], "dot": dot} for arm, dot in zip(known, placed, strict=True)],
    }


def _histogram(result: Result) -> dict[str, Any] | None:
    gains = [gain for gain in map(finite, result.get("gains") or []) if gain is not None]
    if not gains:
        return None
    edges, counts = histogram(gains)
    axis = Axis(low=edges[0], high=edges[-1], margin=4)
    mean, interval = mean_with_interval(gains)
    return {
        "bins": [
            {
                "x": axis.place(low),
                "width": round(axis.place(high) - axis.place(low), 3),
                "height": round(count / max(counts) * 100, 2),
                "count": count,
                "better": low >= 0,
            }
            for low, high, count in zip(edges, edges[1:], counts, strict=False)
        ],
        "ticks": _ticks(axis),
        "zero": axis.place(0.0),
        "mean_x": axis.place(mean),
        "mean": mean,
        "interval": interval,
        "sure": None if interval is None else interval[0] > 0 or interval[1] < 0,
        "better_share": sum(gain > 0 for gain in gains) / len(gains),
        "count": len(gains),
    }


def _ticks(axis: Axis) -> list[dict[str, Any]]:
    ticks = axis.ticks
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [{"x": axis.place(tick), "text": number(tick, digits)} for tick in ticks]


def _headline(result: Result) -> str:
    person = str(result.get("person") or "this person")
    gain = _relative(result, _since(result), "adapter")
    count = finite(result.get("nights")) or 1
    nights = "One private night" if count == 1 else f"{number(count, 0)} private nights"
    if result.get("admitted") is False:
        return "Tonight’s adapter was refused, and the one before it stays in use."
    if gain is None:
        return f"{nights} of learning on the text of {person}."
    if gain <= 0:
        return f"{nights} did not make the later text of {person} easier to predict."
    interval = _ends(result.get("gain"))
    unsure = ", too little to be sure" if interval and interval[0] <= 0 else ""
    return f"{nights} made the later text of {person} {percent(gain)} easier to predict{unsure}."


# --- what was kept, spent and used -----------------------------------------------------------------------------------


def _legs(result: Result) -> list[dict[str, Any]]:
    """Each leg with its drop measured in margins, so that legs of different units share one drawing."""
    legs = [dict(leg) for leg in result.get("retention") or []]
    for leg in legs:
        for key in ("drop", "upper", "detectable_drop", "margin"):
            leg[key] = finite(leg.get(key))
        leg.update(leg=str(leg.get("leg", DASH)), unit=str(leg.get("unit") or ""), passed=leg.get("passed"))
        margin = leg["margin"] or 1.0
        leg["shares"] = {key: leg[key] / margin for key in ("drop", "upper", "detectable_drop") if leg[key] is not None}
    shares = [share for leg in legs for share in leg["shares"].values()]
    low, high = min(-0.5, *shares, 0.0), max(1.3, *shares, 0.0)
    axis = Axis(low=max(low, -MOST_LIMITS), high=min(high, MOST_LIMITS), margin=4)
    for leg in legs:
        leg["beyond"] = leg["shares"].get("drop", 0.0) > MOST_LIMITS
        leg["at"] = {key: axis.place(share) for key, share in leg["shares"].items()}
        leg["zero"], leg["limit"] = axis.place(0.0), axis.place(1.0)
        leg["digits"] = 2 if leg["unit"] in POINTS else 3
    return legs


def _budget(result: Result) -> dict[str, Any] | None:
    tonight, left = finite(result.get("epsilon")), finite(result.get("epsilon_left"))
    lifetime = finite(result.get("lifetime_budget"))
    if tonight is None or (left is None and lifetime is None):
        return None
    left = max(0.0, (lifetime or 0.0) - tonight) if left is None else max(0.0, left)
    lifetime = max(lifetime or 0.0, left + tonight)
    axis = Axis(low=0.0, high=lifetime or 1.0)
    earlier = lifetime - left - tonight
    earlier = 0.0 if earlier < 0.005 * lifetime else earlier  # Accountants round up; that sliver is no earlier night.
    return {
        "lifetime": lifetime,
        "left": left,
        "tonight": tonight,
        "earlier": earlier,
        "earlier_width": axis.place(earlier),
        "tonight_width": axis.place(tonight),
        "left_width": axis.place(left),
    }


def _certainty(epsilon: object) -> str | None:
    """How sure somebody can become who started at a coin flip: e^epsilon / (1 + e^epsilon), rounded up."""
    known = finite(epsilon)
    if known is None or known < 0:
        return None
    doubt = 100 * math.exp(-known) / (1 + math.exp(-known))  # In percent.
    digits = min(6, max(1, math.ceil(-math.log10(max(doubt, 1e-6)))))
    return f"{number(math.ceil((100 - doubt) * 10**digits) / 10**digits, digits)}{THIN}%"


def _phases(result: Result) -> list[dict[str, Any]]:
    phases = [(str(phase.get("name", DASH)), finite(phase.get("seconds"))) for phase in result.get("phases") or []]
    known = [(name, seconds) for name, seconds in phases if seconds is not None and seconds >= 0]
    drawn = bars([seconds for _, seconds in known], [None] * len(known))
    return [
        {"name": name, "seconds": seconds, "width": bar.width}
        for (name, seconds), bar in zip(known, drawn, strict=True)
    ]


def _sample(sample: Result) -> dict[str, Any]:
    """A sample's scores are numbers (bits per character of the text) or texts (what each model wrote)."""
    texts = {key: sample[key] for key in ("prompt", "text") if sample.get(key)}
    scores = {key: finite(sample.get(key)) for key in ("base", "adapter")}
    written = {key: sample[key] if isinstance(sample.get(key), str) else "" for key in ("base", "adapter")}
    return {"prompt": "", "text": "", **texts, "scores": scores, "written": written}
