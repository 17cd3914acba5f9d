"""A covariate search of a table: its files, the model that it writes, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from image_longitudinal.core.errors import ConfigError, StorageError
from image_longitudinal.flows.search_covariates import search_covariates
from image_longitudinal.models.nlme.library import get_model, load_models
from image_longitudinal.models.nlme.simulation.trial import write_trial
from image_longitudinal.tasks.engine.prefect_setup import run_or_call
from image_longitudinal.tasks.population.covariates import CAUTION, MODEL, SEARCH, SearchSummary
from image_longitudinal.tasks.population.options import CovariateOptions

DECAY = """
from image_longitudinal.models.nlme.library import register
from tests.models.nlme.intervals.decay import MODEL
from dataclasses import replace
register(replace(MODEL, name="decay-of-a-test"))
"""


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> CovariateOptions:
    """Thirty subjects, of whom every second one (SEX 1) has half the amplitude."""
    folder = tmp_path_factory.mktemp("search")
    (folder / "decay.py").write_text(DECAY, encoding="utf-8")
    load_models(folder / "decay.py")
    path = write_trial(get_model("decay-of-a-test"), folder / "trial.csv", 30, seed=1)
    header, *rows = path.read_text(encoding="utf-8").splitlines()
    value = header.split(",").index("DV")
    lines = [f"{header},SEX,WEIGHT"]
    for row in rows:
        cells = row.split(",")
        sex = int(cells[0]) % 2
        if sex and cells[value] != ".":
            cells[value] = str(float(cells[value]) / 2)
        lines.append(",".join([*cells, str(sex), str(50 + 7 * int(cells[0]) % 41)]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return CovariateOptions(
        table=str(path), model="decay-of-a-test", model_file=str(folder / "decay.py"), omega="diagonal",
        candidates=("a:sex:categorical", "k:weight:power"), forward=0.001, backward=0.001,
    )  # fmt: skip


def test_the_search_is_written_with_the_model_that_it_found(options: CovariateOptions, tmp_path: Path) -> None:
    folder = tmp_path / "search"
    summary = run_or_call(search_covariates, options, str(folder), 1)
    assert isinstance(summary, SearchSummary)
    assert summary.relations == ("a:sex:categorical",)
    content = json.loads((folder / SEARCH).read_bytes())
    assert SearchSummary.model_validate(content) == summary
    page = (folder / "report.html").read_text(encoding="utf-8")
    printed = "\n".join(summary.lines())
    for text in ("a:sex:categorical", "k:weight:power"):
        assert text in page
        assert text in printed
    assert CAUTION in printed
    assert "not corrected for the search" in page
    load_models(folder / MODEL)
    found = get_model(summary.name)
    (coefficient,) = (p for p in found.parameters if p.name.startswith("a_sex"))
    assert coefficient.typical == summary.estimates[coefficient.name]
    assert abs(coefficient.typical) == pytest.approx(np.log(2), abs=0.4)  # 30 subjects, ω of 0.3: SE 0.11
    assert found.structural.covariates == ("sex",)
    with pytest.raises(StorageError, match=r"earlier result.*--overwrite"):
        run_or_call(search_covariates, options, str(folder), 1)


def test_what_cannot_be_searched_is_refused(options: CovariateOptions, tmp_path: Path) -> None:
    for update, message in (
        ({"candidates": ("a:height:power",)}, "HEIGHT"),
        ({"candidates": ("a:sex:power",)}, "not positive"),
        ({"candidates": ("b:sex:categorical",)}, "no such parameter"),
        ({"method": "nuts"}, "another method than nuts"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_or_call(search_covariates, options.model_copy(update=update), str(tmp_path / "out"), 1)
    assert not (tmp_path / "out").exists()
