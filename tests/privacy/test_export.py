import csv
import io
import json
from pathlib import Path

from privacy.chain import canonical
from privacy.events import GaussianRelease, LaplaceRelease
from tests.privacy.ledgers import NIGHT, opened


def test_the_same_ledger_gives_the_same_text_and_it_is_canonical(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.reserve(NIGHT, blocks=["b"])
        text = ledger.export()
        assert ledger.export() == text == canonical(json.loads(text))


def test_no_figure_is_bare(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.reserve(NIGHT, blocks=["b"])
        claims = json.loads(ledger.export())["claims"]["experience"]
    assert (claims["unit"], claims["neighbours"], claims["delta"]) == ("record", "zero_out", 1e-5)
    assert claims["spent_pld"] < claims["spent_rdp"]
    assert set(claims["blocks"]["b"]) == {"epsilon", "order"}


def test_the_figure_beside_can_be_left_out(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        assert json.loads(ledger.export(beside=False))["claims"]["experience"]["spent_pld"] is None


def test_the_table_has_one_line_an_entry(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        receipt = ledger.reserve(NIGHT, blocks=["monday", "tuesday"])
        ledger.draw(receipt, 4)
        ledger.close(receipt, "crashed")
        ledger.reserve(LaplaceRelease(scale=20.0, count=3), blocks=["monday"])
        rows = list(csv.DictReader(io.StringIO(ledger.export_csv())))
    assert [row["kind"] for row in rows] == ["genesis", "budget", "reserve", "draw", "close", "reserve"]
    assert (rows[2]["blocks"], rows[2]["noise"], rows[2]["uses"]) == ('["monday", "tuesday"]', "6.798", "10")
    assert (rows[3]["steps_drawn"], rows[4]["outcome"], rows[5]["noise"]) == ("4", "crashed", "20.0")


def test_a_name_never_becomes_a_formula_in_a_spreadsheet(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.reserve(GaussianRelease(noise_multiplier=9), blocks=["b"], caller="=HYPERLINK(1)")
        rows = list(csv.DictReader(io.StringIO(ledger.export_csv())))
    assert rows[-1]["caller"] == "'=HYPERLINK(1)"
