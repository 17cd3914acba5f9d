"""compare and the options of fit that add intervals."""

import csv
import json
import sys
from pathlib import Path

import pytest

from image_longitudinal.cli.app import main
from image_longitudinal.cli.population import listed
from tests.tasks.population.test_comparison import written


def test_names_between_commas_are_told_apart_from_those_of_a_covariance() -> None:
    assert listed("cl, v,eta_cl") == ["cl", "v", "eta_cl"]
    assert listed("omega(eta_cl,eta_cl),sigma2_additive") == ["omega(eta_cl,eta_cl)", "sigma2_additive"]


def test_fits_are_compared_in_a_table_a_file_and_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "base", 100.0, "k a s")
    written(tmp_path / "weight", 90.0, "k a s k_weight")

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["image-longitudinal", "compare", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return (int(ended.value.code or 0), *capsys.readouterr())

    status, printed, _ = run("base", "weight", "--output", "table.csv")
    assert status == 0
    header, first, second = printed.splitlines()[:3]
    assert header.split() == ["fit", "method", "parameters", "objective", "change", "AIC", "BIC", "df", "p"]
    assert first.split()[:2] == ["weight", "FOCEI"]
    assert second.split()[0] == "base"
    rows = list(csv.DictReader((tmp_path / "table.csv").open(encoding="utf-8")))
    assert [row["fit"] for row in rows] == ["weight", "base"]
    found = json.loads(run("base", "weight", "--json")[1])
    assert found["comparison"]["fits"][0]["p"] == pytest.approx(float(rows[0]["p"]))
    assert "exists already" in run("base", "weight", "--output", "table.csv")[2]
