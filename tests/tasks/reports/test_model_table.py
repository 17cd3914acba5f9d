"""The table of a measured model: every figure once, with its interval and what real scans have in its place."""

from pathlib import Path

from image_longitudinal.core.config import Config
from image_longitudinal.models.pretrained import PRETRAINED
from image_longitudinal.tasks.reports.model_table import HEADING, SETS, ModelReport, TableRow, model_report, model_table
from image_longitudinal.tasks.workspace import Workspace
from tests.models.conftest import model_metadata


def rows(**metadata: object) -> dict[str, TableRow]:
    measured = model_metadata(**metadata).measured  # type: ignore[arg-type]
    heading, *found = model_table(ModelReport(version="a", images_per_second=2.5, measured=measured))
    assert heading == HEADING
    assert len({row.figure for row in found}) == len(found)
    return {row.figure: row for row in found}


def test_a_judged_model_has_all_figures() -> None:
    found = rows(judge="j" * 64, fd=3.25)
    assert found["outside judge, floors"] == TableRow(
        "outside judge, floors", "3.25", "0.4 to 0.6", "0.5 (0.45 to 0.55)"
    )
    assert found["outside judge, floors of one real set"].generated == "3.90"
    assert set(SETS) < set(found)
    for name in ("RPE breaks, mean", "RPE breaks, ratio", "RPE breaks, distance", "share of CNV, difference"):
        assert found[name].interval == "0.4 to 0.6"
    assert found["images per second, on this machine"].generated == "2.50"
    assert [name for name in found if name.startswith("z[")][:2] == [
        "z[0] read back by the encoder, R²", "z[1] read back by the encoder, R²"
    ]  # fmt: skip


def test_an_older_record_has_what_was_measured_then() -> None:
    found = rows()
    assert "outside judge, floors" not in found
    assert found["z[0] read back by the encoder, R²"] == TableRow("z[0] read back by the encoder, R²", "0.800", "", "")


def test_the_rate_is_measured_with_the_sampler_of_the_figures(tmp_path: Path) -> None:
    version = Workspace.at(tmp_path).model(PRETRAINED)
    report = model_report(version, Config())
    assert report.images_per_second > 0
    assert report.measured == version.metadata.measured
    assert ModelReport.model_validate_json(report.model_dump_json()) == report
