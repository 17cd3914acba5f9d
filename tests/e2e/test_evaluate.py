"""A data set evaluated as a whole: tables, figures and report; nothing computed twice; submissions scored."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from image_longitudinal.core.config import Config
from image_longitudinal.core.digest import sealed_json
from image_longitudinal.core.errors import StorageError
from image_longitudinal.flows.evaluate_dataset import EvaluationResult, evaluate_dataset
from image_longitudinal.flows.generate_dataset import generate_dataset
from image_longitudinal.models.evaluation.records import Evaluation
from image_longitudinal.storage.dataset.reader import open_dataset
from image_longitudinal.tasks.evaluation.checks import FEWEST
from image_longitudinal.tasks.evaluation.submissions import score_predictions
from tests.e2e.conftest import digests

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("prefect_server")]

SETTINGS = (
    "generator.backend=phantom", "generator.image_size=32", "generator.latent_dim=12",
    "dataset.n_subjects=260", "dataset.shard_size=70", "dataset.test_fraction=0.2", "dataset.association=[1.0, 0.1]",
    "evaluation.fit_subjects=80", "evaluation.bootstrap=100", "evaluation.rounds=1",
    "evaluation.resnet.steps=8", "evaluation.resnet.width=0.125",
)  # fmt: skip
Evaluate = Callable[..., EvaluationResult]  # data set, output and more settings
score = partial(score_predictions, replicates=100, workers=1)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def evaluate(tiny: Callable[..., Config], workspace: Path, prefect_server: None) -> Evaluate:
    def run(data: Path, output: Path, *settings: str) -> EvaluationResult:
        config = tiny(*SETTINGS, *settings)
        return evaluate_dataset(str(data), str(output), config=config, workspace=str(workspace))

    return run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Config], prefect_server: None) -> Path:
    output = tmp_path_factory.mktemp("data") / "set"
    generate_dataset(str(output), config=tiny(*SETTINGS), workspace=str(output.parent))
    return output


@pytest.fixture(scope="module")
def evaluated(data: Path, tmp_path_factory: pytest.TempPathFactory, evaluate: Evaluate) -> Path:
    return evaluate(data, tmp_path_factory.mktemp("evaluation")).folder


def test_the_figures_make_sense(evaluated: Path) -> None:
    found, text = Evaluation.read(evaluated / "evaluation.json"), (evaluated / "evaluation.json").read_text()
    assert [level.level for level in found.levels] == [1.0, 0.1]
    strong = found.levels[0]
    assert strong.subjects == 52
    assert strong.ceiling == (1.0, 1.0, 1.0)
    # position, tilt and luminance of a phantom are easy to see, even after 150 training images
    assert strong.effects["oracle"].r2.value > 0.75
    assert strong.effects["informed"].r2.value > 0.6  # 182 training subjects
    # more visits give a better forecast, and so does the image
    assert strong.forecasts[-1].outcomes_without.value < strong.forecasts[0].outcomes_without.value
    assert strong.forecasts[0].gain.value > 0.3
    for level in json.loads(text)["levels"]:
        nll = {name: row["nll_observed"][0] for name, row in level["outcomes"].items()}
        assert nll["true"] < nll["average"] < nll["random"]
        assert level["outcomes"]["true"]["nll_simulated"][0] < level["outcomes"]["random"]["nll_simulated"][0]
    assert not found.failed
    assert found.null.passed


def test_report_tables_and_predictions_are_files(evaluated: Path) -> None:
    page = (evaluated / "evaluation.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 10
    assert "<script" not in page
    names = {path.name for path in (evaluated / "tables").iterdir()}
    assert {"effects.md", "effects.tex", "effects.csv", "outcomes.csv", "forecasts.csv", "checks.csv"} <= names
    rows = (evaluated / "tables/effects.csv").read_text().splitlines()
    assert rows[0].startswith("ρ²,source,MSE to true η")
    assert sum("(b) image-informed model" in row for row in rows) == 2
    predicted = pq.read_table(evaluated / "predictions/informed-0.1.parquet")
    assert predicted.column_names == ["id", "association", "eta_1", "eta_2", "eta_3"]
    assert predicted.num_rows == 52


def test_the_same_evaluation_again_computes_no_stage(
    data: Path, evaluated: Path, tmp_path: Path, evaluate: Evaluate, workspace: Path
) -> None:
    stages = {path: path.stat().st_mtime_ns for path in (workspace / "evaluation").rglob("*") if path.is_file()}
    assert len(stages) > 20
    evaluate(data, tmp_path, "compute.concurrent_shards=2")
    assert {path: path.stat().st_mtime_ns for path in stages} == stages
    for path in (p for p in evaluated.rglob("*") if p.is_file() and p.suffix != ".html"):
        assert (tmp_path / path.relative_to(evaluated)).read_bytes() == path.read_bytes(), path.name


def test_another_evaluation_does_not_replace_one_unasked(data: Path, evaluated: Path, evaluate: Evaluate) -> None:
    before = digests(evaluated)
    again = evaluate(data, evaluated).evaluation  # the same: a cache hit
    assert again.model_dump_json() == Evaluation.read(evaluated / "evaluation.json").model_dump_json()
    with pytest.raises(StorageError, match=r"earlier result.*--overwrite"):
        evaluate(data, evaluated, "evaluation.folds=3")
    assert digests(evaluated) == before


def test_the_population_is_the_likeliest_or_that_of_foce(
    data: Path, evaluated: Path, tmp_path: Path, evaluate: Evaluate
) -> None:
    fitted = Evaluation.read(evaluated / "evaluation.json").levels[0].population
    assert fitted is not None
    assert fitted.method == "IMP"
    value, error = fitted.estimates["ka"]
    assert abs(value - fitted.true["ka"]) < 4 * error
    settings = ("evaluation.levels=[1.0]", "evaluation.population=foce", "evaluation.resnet.steps=0")
    foce = evaluate(data, tmp_path, *settings).evaluation.levels[0].population
    assert foce is not None
    assert foce.method == "FOCE"
    assert {name: value for name, (value, _) in foce.estimates.items()} == foce.foce == fitted.foce


def test_a_submission_gets_the_score_that_the_evaluation_gave_it(data: Path, evaluated: Path) -> None:
    mine = evaluated / "predictions/informed-1.parquet"
    effects, each, outcomes = score(open_dataset(data), mine, evaluated / "predictions")
    by_source = {row[1]: row for row in effects.rows}
    assert by_source["this submission"][2:7] == by_source["(b) image-informed model"][2:7]
    assert {"average subject", "random subject", "empirical Bayes (sees the outcomes)"} <= set(by_source)
    assert each.rows[0][1] == outcomes.rows[0][1] == "this submission"


def test_predicted_outcomes_are_scored_too_and_malformed_ones_refused(data: Path, tmp_path: Path) -> None:
    opened = open_dataset(data)
    seen = opened.observations(1.0, "test").to_pandas().query("evid == 0")
    mine = seen[["id", "association", "time", "dv"]].astype({"dv": float})
    mine.to_parquet(tmp_path / "perfect.parquet", index=False)
    (table,) = score(opened, tmp_path / "perfect.parquet", None)
    assert table.rows[0][1:3] == ("this submission", "0.0000 [0.0000, 0.0000]")
    mine.iloc[:-1].to_parquet(tmp_path / "short.parquet", index=False)
    with pytest.raises(StorageError, match=r"1 predictions are missing.*none for id 259, time 10"):
        score(opened, tmp_path / "short.parquet", None)


def test_what_cannot_be_evaluated_is_refused_by_name(
    data: Path, tmp_path: Path, tiny: Callable[..., Config], evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_test, out = tmp_path / "no-test", tmp_path / "out"
    few = ("dataset.n_subjects=60", "dataset.test_fraction=0", "dataset.association=[1.0]")
    generate_dataset(str(no_test), config=tiny(*SETTINGS, *few), workspace=str(tmp_path / "workspace"))
    with pytest.raises(StorageError, match="no published data set"):
        evaluate(tmp_path, out)
    with pytest.raises(StorageError, match=r"no such association level.*0\.7"):
        evaluate(data, out, "evaluation.levels=[0.7]")
    with pytest.raises(StorageError, match=r"too few test subjects.*at least 8.*got 0"):
        evaluate(no_test, out)
    monkeypatch.setitem(FEWEST, "train", 100)
    with pytest.raises(StorageError, match=r"too few train subjects.*at least 100.*got 54"):
        evaluate(no_test, out)
    monkeypatch.undo()
    with pytest.raises(StorageError, match="too few test subjects"):
        score(open_dataset(no_test), tmp_path / "any.parquet", None)
    manifest = no_test / "dataset.json"
    content = json.loads(manifest.read_text())
    del content["content_sha256"]
    manifest.write_text(sealed_json(content | {"layout_version": 7}))
    with pytest.raises(StorageError, match=r"layout of this data set is unknown.*got 7"):
        evaluate(no_test, out)
    assert not out.exists()


def test_a_damaged_data_set_is_refused(data: Path, tmp_path: Path, evaluate: Evaluate) -> None:
    copy = shutil.copytree(data, tmp_path / "copy")
    shard = copy / "images.zarr/image/c/1/0/0"
    content = bytearray(shard.read_bytes())
    content[50] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(StorageError, match=r"does not verify.*image/c/1/0/0"):
        evaluate(copy, tmp_path / "out")
    assert np.frombuffer(shard.read_bytes(), np.uint8).size == len(content), "evaluation leaves a data set alone"
