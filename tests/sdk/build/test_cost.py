"""The price on paper against sums done by hand, against a measured run, and against its page."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sdk.build.cost import Cluster, Job, cost
from sdk.cli.app import cli

PAGE = Path(__file__).parents[3] / "docs" / "scale.md"


def test_hours_are_flops_over_what_the_cluster_does() -> None:
    cluster = Cluster(
        gpus=2, peak=1e12, training_utilisation=0.5, reading_utilisation=0.25, availability=0.8, price=2.0, watts=500
    )
    job = Job(teacher=10e9, student=1e9, tokens=3.6e6, passes=2, overhead=1.5)
    found = cost(job, cluster)
    assert found.teacher_hours == pytest.approx(2 * 10e9 * 7.2e6 / (2e12 * 0.25 * 0.8) / 3600)
    assert found.student_hours == pytest.approx(6 * 1e9 * 7.2e6 * 1.5 / (2e12 * 0.5 * 0.8) / 3600)
    assert found.gpu_hours == pytest.approx(2 * (found.teacher_hours + found.student_hours))
    assert found.dollars == pytest.approx(2 * found.gpu_hours)
    assert found.megawatt_hours == pytest.approx(found.gpu_hours * 500e-6)
    assert found.terabytes == 0.0


def test_what_is_kept_is_read_once_and_takes_disk() -> None:
    read, kept = cost(Job(passes=3)), cost(Job(passes=3, kept=True))
    assert kept.teacher_hours == pytest.approx(read.teacher_hours / 3)
    assert kept.student_hours == read.student_hours
    assert kept.terabytes == pytest.approx(100e9 * 384 / 1e12)


def test_the_formula_tells_the_time_of_a_run_that_was_measured_here() -> None:
    """23,296 tokens, teacher of 115.7 M weights a token, student of 80.2 M: 280 CPU-seconds (docs/scale.md)."""
    core = Cluster(gpus=1, peak=85e9, training_utilisation=0.7, reading_utilisation=0.7, availability=1.0)
    made = cost(Job(teacher=115.7e6, student=80.2e6, tokens=23_296, overhead=1.0), core)
    assert made.days * 24 * 3600 == pytest.approx(280, rel=0.05)


@pytest.mark.parametrize(
    ("kind", "options"),
    [(Cluster, {"gpus": 0}), (Cluster, {"training_utilisation": 1.5}), (Job, {"passes": 0}), (Job, {"student": 0})],
)
def test_what_is_no_job_and_no_cluster_is_refused(kind: Any, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be in|needs"):
        kind(**options)


def calls() -> list[tuple[str, str]]:
    """Each command of the page that prices something, and the table that stands below it."""
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(r"```\nlimbeck (build cost[^\n]*)\n```\n\n((?:\|[^\n]*\n)+)", text)


@pytest.mark.parametrize(("call", "table"), calls())
def test_the_page_shows_what_the_command_says(call: str, table: str) -> None:
    said = CliRunner().invoke(cli, call.split(), catch_exceptions=False)
    assert said.output == table


def test_the_page_has_tables_and_the_command_speaks_json() -> None:
    assert len(calls()) >= 2
    said = CliRunner().invoke(cli, ["build", "cost", "--tokens", "100", "--json"], catch_exceptions=False)
    (row,) = json.loads(said.output)["rows"]
    assert row["gpu_hours"] == pytest.approx(cost(Job()).gpu_hours)
