"""Rows of tests.bench.personal in, the gain against epsilon as an SVG picture out.

Run with `python -m tests.bench.frontier --rows FILE --out docs/figures/personal.svg`.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from tests.bench.personal import interval

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 360, 60, 50, 20, 170
COLOURS = {"chats": "#b3530b", "commits": "#1b5fa8"}
NAMES = {
    "basis": "basis, private",
    "lora": "LoRA, no privacy",
    "frozen-a": "DP-Adam, 166k numbers",
    "xs": "DP-Adam, small cores",
}


def picture(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line a stream for the basis, dots for the other arms; bars are 95 % intervals over people."""
    gains: dict[tuple[str, str, float], list[float]] = defaultdict(list)
    for row in rows:
        if "elsewhere" in row:
            gains[row["stream"], row["arm"], row["epsilon"] or float("inf")].append(100 * row["gain"])
    ticks = sorted({key[2] for key in gains})
    high = 1.15 * max(interval(values)[1] for values in gains.values() if len(values) > 1)
    low = min(0.0, *(interval(values)[0] for values in gains.values() if len(values) > 1))

    def x(epsilon: float) -> float:
        return LEFT + (ticks.index(epsilon) + 0.5) * (WIDTH - LEFT - RIGHT) / len(ticks)

    def y(gain: float) -> float:
        return TOP + (high - gain) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [_axes(ticks, low, high, x, y)]
    for number, stream in enumerate(sorted({key[0] for key in gains})):
        colour = COLOURS.get(stream, "#444")
        line = [(x(tick), y(mean(gains[stream, "basis", tick]))) for tick in ticks if (stream, "basis", tick) in gains]
        parts.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="'
            + " ".join(f"{at:.1f},{height:.1f}" for at, height in line)
            + '"/>'
        )
        for (whose, arm, epsilon), values in sorted(gains.items()):
            if whose == stream and len(values) > 1:
                place = x(epsilon) + (0 if arm == "basis" else 14) + 4 * number
                parts.append(_dot(place, values, colour, y, hollow=arm != "basis", title=f"{stream}, {NAMES[arm]}"))
        parts.append(f'<text x="{WIDTH - RIGHT + 12}" y="{40 + 20 * number}" fill="{colour}">{stream}: basis</text>')
    parts.append(f'<text x="{WIDTH - RIGHT + 12}" y="90">hollow, at the right:</text>')
    parts += [
        f'<text x="{WIDTH - RIGHT + 12}" y="{108 + 16 * number}">{name}</text>'
        for number, name in enumerate(name for arm, name in NAMES.items() if arm != "basis")
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12" fill="#222"><rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _axes(ticks: Sequence[float], low: float, high: float, x: Any, y: Any) -> str:
    parts = [f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(0):.1f}" y2="{y(0):.1f}" stroke="#888"/>']
    for tick in ticks:
        name = "no privacy" if tick == float("inf") else f"ε = {tick:g}"
        parts.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 22}" text-anchor="middle">{name}</text>')
    step = max(1, round((high - low) / 6))
    for gain in range(int(low) - int(low) % step, int(high) + 1, step):
        parts.append(f'<text x="{LEFT - 8}" y="{y(gain) + 4:.1f}" text-anchor="end">{gain}</text>')
    parts.append(f'<text x="14" y="{TOP - 6}">gain on later text, %</text>')
    return "".join(parts)


def _dot(at: float, values: Sequence[float], colour: str, y: Any, *, hollow: bool, title: str) -> str:
    least, most = interval(values)
    fill = "#fff" if hollow else colour
    told = f"{title}: {mean(values):.2f} % ({least:.2f} to {most:.2f}), {len(values)} people"
    return (
        f'<g stroke="{colour}"><title>{told}</title><line x1="{at:.1f}" x2="{at:.1f}" y1="{y(least):.1f}" '
        f'y2="{y(most):.1f}"/><circle cx="{at:.1f}" cy="{y(mean(values)):.1f}" r="4" fill="{fill}"/></g>'
    )


def main() -> None:
    """Read rows, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.rows is None or given.out is None:
        print("skipped: needs --rows FILE of tests.bench.personal and --out FILE", file=sys.stderr)
        return
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(picture([json.loads(line) for line in given.rows.read_text().splitlines()]))


if __name__ == "__main__":
    main()
