"""Intervals that are added to a finished fit: kept, continued, never replaced unasked."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from image_longitudinal.core.errors import ConfigError, StorageError
from image_longitudinal.flows.fit_table import fit_table
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.simulation.trial import write_trial
from image_longitudinal.tasks.engine.prefect_setup import run_or_call
from image_longitudinal.tasks.population import intervals
from image_longitudinal.tasks.population.options import FitOptions
from image_longitudinal.tasks.population.summary import BOOTSTRAP, NAME, SIR, FitSummary, read_summary

MODEL = "depot-central-mm"
HELD = ("ka", "imax", "ic50", "eta_imax", "eta_ic50")  # two estimates: one variance, the residual error
VARIANCE = "omega(eta_ka,eta_ka)"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trial") / "trial.csv"
    write_trial(get_model(MODEL), path, 12, seed=1, times=(0.5, 1.0, 2.0, 4.0))
    header, *rows = path.read_text(encoding="utf-8").splitlines()
    lines = [f"{header},ARM", *(f"{row},{'AB'[int(row.split(',')[0]) % 2]}" for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def options(table: Path) -> FitOptions:
    return FitOptions(table=str(table), model=MODEL, omega="diagonal", fixed=HELD)


@pytest.fixture(scope="module")
def finished(options: FitOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "fit"
    fitted(options, folder)
    return folder


def fitted(options: FitOptions, folder: Path, overwrite: bool = False) -> FitSummary:
    found = run_or_call(fit_table, options, str(folder), 1, overwrite)
    assert isinstance(found, FitSummary)
    return found


def test_intervals_are_added_to_a_fit_kept_and_continued(
    options: FitOptions, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(finished, tmp_path / "fit")
    alone = fitted(options, folder)
    plain = (folder / NAME).read_bytes()
    assert not {"bootstrap", "sir", "profiles"} & set(json.loads(plain))

    whole = bootstrapped = intervals.bootstrap

    def interrupted(*arguments: object, **named: object) -> object:
        for count, one in enumerate(whole(*arguments, **named), 1):  # type: ignore[arg-type]
            yield one
            if count == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(intervals, "bootstrap", interrupted)
    asked = options.model_copy(update={"bootstrap": 8, "stratify": ("arm",)})
    with pytest.raises(KeyboardInterrupt):
        fitted(asked, folder)
    assert (folder / NAME).read_bytes() == plain
    kept = pq.read_table(folder / BOOTSTRAP).to_pylist()
    assert [row["replicate"] for row in kept] == [0, 1, 2]
    made: list[int] = []

    def counted(*arguments: object, **named: object) -> object:
        made.extend(arguments[3])  # type: ignore[arg-type]
        return bootstrapped(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(intervals, "bootstrap", counted)
    summary = fitted(asked, folder)
    assert made == [3, 4, 5, 6, 7]
    rows = pq.read_table(folder / BOOTSTRAP).to_pylist()
    assert rows[:3] == kept
    own = summary.bootstrap
    assert own is not None
    assert (own.replicates, own.counted, own.strata) == (8, 8, ("arm",))
    assert own.estimates[VARIANCE].lower is None  # of 8 there is no percentile 2.5
    assert summary.estimates == alone.estimates
    assert read_summary(folder) == summary == fitted(asked, folder)
    assert made == [3, 4, 5, 6, 7]

    with pytest.raises(StorageError, match=r"bootstrap with other strata.*--overwrite"):
        fitted(asked.model_copy(update={"stratify": ()}), folder)
    assert read_summary(folder) == summary

    more = options.model_copy(update={"profile": ("eta_ka", "sigma2_additive"), "sir": 100})
    both = fitted(more, folder)
    assert both.bootstrap == own
    assert set(both.profiles) == {VARIANCE, "sigma2_additive"}
    assert both.profiles[VARIANCE].lower is not None
    assert both.sir is not None
    assert both.sir.samples == len(pq.read_table(folder / SIR)) == 100
    printed = "\n".join(both.lines())
    page = (folder / "report.html").read_text(encoding="utf-8")
    for text in ("Bootstrap: 8 of 8 replicates within arm", "effective of 100 draws"):
        assert text in printed
        assert text in page
    assert "profile 95 %" in printed
    assert 'alt="Rise of the objective by the value held' in page
    with pytest.raises(StorageError, match=r"SIR with another number of draws.*--overwrite"):
        fitted(options.model_copy(update={"sir": 150}), folder)
    again = fitted(options.model_copy(update={"bootstrap": 2}), folder, overwrite=True)
    assert again.bootstrap is not None
    assert (again.bootstrap.replicates, again.bootstrap.strata) == (2, ())
    assert again.profiles == both.profiles


def test_what_cannot_be_made_is_refused_before_work(options: FitOptions, finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "fit")
    before = (folder / NAME).read_bytes()
    with pytest.raises(ConfigError, match=r"no estimate of that name.*'ka'"):
        fitted(options.model_copy(update={"profile": ("ka",), "bootstrap": 2}), folder)
    with pytest.raises(ConfigError, match="no column of that name"):
        fitted(options.model_copy(update={"stratify": ("sex",), "bootstrap": 2}), folder)
    with pytest.raises(ConfigError, match="full Bayes"):
        fitted(options.model_copy(update={"method": "nuts", "sir": 100}), tmp_path / "draws")
    assert not (tmp_path / "draws").exists()
    assert (folder / NAME).read_bytes() == before
    assert not (folder / BOOTSTRAP).exists()
