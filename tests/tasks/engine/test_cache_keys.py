"""Cache keys: what decides a result changes its key, and nothing else does, in any process."""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_longitudinal.core.config import Config
from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.presets import load_config
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.tasks.engine.cache_keys import cache_by_key, cached_or_fresh, key_of
from image_longitudinal.tasks.shards import parts as shards_module
from image_longitudinal.tasks.shards.parts import image_key, outcome_key
from image_longitudinal.tasks.shards.spec import DatasetSpec
from tests.paths import ROOT

DEMO = load_config("demo")


def spec(*overrides: str, **changes: Any) -> DatasetSpec:
    values = {
        "config": load_config("demo", overrides=overrides),
        "workspace": "somewhere",
        "model_version": "0123456789ab",
        "model_digest": digest_of("model", changes.pop("solver", "ddim 10")),
        "image_size": 64,
        "latent_dim": 16,
        "entries": (2, 0, 1),
    }
    return DatasetSpec(**(values | changes))


def keys(*overrides: str, shard: int = 1, **changes: Any) -> tuple[str, str]:
    """Image key and outcome key of a shard, of the demo with some changes."""
    made = spec(*overrides, **changes)
    return image_key(made, made.plan.shard(shard)), outcome_key(made, made.plan.shard(shard))


decisive = st.dictionaries(
    st.sampled_from("abc"), st.integers(0, 3) | st.sampled_from([0.5, "x", None, True]), min_size=1
)


@given(st.sampled_from(["fit", "make"]), st.integers(1, 2), decisive, st.sampled_from(["fit", "make"]), decisive)
def test_keys_are_equal_only_for_the_same_task_version_and_inputs(
    task: str, version: int, inputs: dict[str, Any], other_task: str, other: dict[str, Any]
) -> None:
    same = (task, digest_of(inputs)) == (other_task, digest_of(other))
    assert (key_of(task, version, **inputs) == key_of(other_task, version, **other)) == same
    assert key_of(task, version, **inputs) != key_of(task, version + 1, **inputs)
    assert key_of(task, version, **inputs) == key_of(task, version, **dict(reversed(inputs.items())))


def test_tasks_with_equal_inputs_have_keys_of_their_own() -> None:
    """Prefect's INPUTS policy has no task identity: two tasks would share one result."""
    made = [
        cache_by_key(SimpleNamespace(task=SimpleNamespace(name=name)), {"key": "k", "x": 1})  # type: ignore[arg-type]
        for name in ("make-images", "make-outcomes")
    ]
    assert made == ["make-images-k", "make-outcomes-k"]


def test_keys_are_the_same_in_a_process_that_hashes_differently() -> None:
    program = "from tests.tasks.engine.test_cache_keys import *; print(*keys(), spec().identity)"
    there = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "1" if sys.flags.hash_randomization else "random"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.split() == [*keys(), spec().identity]


@pytest.mark.parametrize(
    ("overrides", "changes", "images", "outcomes"),
    [
        (["seed=2"], {}, True, True),
        ([], {"shard": 2}, True, True),
        (["dataset.shard_size=64"], {}, True, True),
        (["dataset.association=[1, 0.5]"], {}, False, True),
        (["outcomes.times=[0, 1]"], {}, False, True),
        (["outcomes.doses=[{amt: 2}]"], {}, False, True),
        (["outcomes.doses=[{rate: 2}]"], {}, False, True),
        (["outcomes.jitter=0.1"], {}, False, True),
        (["outcomes.missed=0.1"], {}, False, True),
        (["outcomes.dropout=0.1"], {}, False, True),
        ([], {"entries": (0, 1, 2)}, False, True),
        ([], {"latent_dim": 17}, False, True),
        (["generator.steps=20"], {"solver": "ddim 20"}, True, False),
        (["generator.scheduler=euler"], {"solver": "euler 10"}, True, False),
        (["generator.batch_size=8"], {}, True, False),
        (["dataset.name=other"], {}, False, False),
        (["dataset.licence=MIT"], {}, False, True),
        (["dataset.n_subjects=6400", "dataset.validation_fraction=0", "dataset.test_fraction=0"], {}, False, False),
        (["compute.concurrent_shards=8", "compute.device=cpu"], {}, False, False),
        (["vae.steps=9"], {}, False, False),  # the model's digest says what came of it
        ([], {"workspace": "elsewhere"}, False, False),
        ([], {"model_version": None}, False, False),
    ],
    ids=str,
)
def test_what_changes_the_keys_of_a_shard(
    overrides: list[str], changes: dict[str, Any], images: bool, outcomes: bool
) -> None:
    """Association levels leave images alone, solver steps leave outcomes alone: neither is made twice."""
    before, after = keys(), keys(*overrides, **changes)
    assert (after[0] != before[0]) == images
    assert (after[1] != before[1]) == outcomes


def test_the_content_of_a_model_file_decides_the_outcomes_and_the_data_set(tmp_path: Path) -> None:
    file, nowhere = tmp_path / "mine.py", tmp_path / "elsewhere.py"
    text = "from dataclasses import replace\nfrom image_longitudinal.models.nlme.library import get_model, register\n"
    text += "omega = (({}, 0, 0), (0, 1, 0), (0, 0, 1))\n"
    text += "register(replace(get_model('depot-central-mm'), name='mine-of-keys', omega=omega))\n"
    file.write_text(text.format(1.0))
    mine = f"outcomes.model={file}:mine-of-keys"
    before, identity = keys(mine), spec(mine).identity
    assert keys(mine) == before
    assert get_model(f"{file}:mine-of-keys").omega[0][0] == 1.0
    file.write_text(text.format(2.0))
    assert keys(mine)[0] == before[0]  # no image depends on it
    assert keys(mine)[1] != before[1]
    assert spec(mine).identity != identity
    assert get_model(f"{file}:mine-of-keys").omega[0][0] == 2.0  # what the key says is what is used
    with pytest.raises(ConfigError, match=r"no such model file.*elsewhere\.py"):
        keys(f"outcomes.model={nowhere}:mine")


def test_subjects_that_change_their_split_change_the_tables_but_no_image() -> None:
    last = DEMO.dataset.n_subjects // DEMO.dataset.shard_size - 1
    before, after = keys(shard=last), keys("dataset.test_fraction=0.05", shard=last)
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_no_two_shards_parts_or_models_share_a_key() -> None:
    made = []
    for solver in ("ddim 10", "ddim 20"):
        one = spec(solver=solver)
        made += [image_key(one, shard) for shard in one.plan]
    made += [outcome_key(one, shard) for shard in one.plan]
    assert len(set(made)) == 3 * one.plan.n_shards


def test_new_code_versions_change_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys()
    monkeypatch.setattr(shards_module, "IMAGES_VERSION", 1_000)
    assert keys()[0] != before[0]
    assert keys()[1] == before[1]
    monkeypatch.setattr(shards_module, "OUTCOMES_VERSION", 1_000)
    assert keys()[1] != before[1]


def test_the_identity_of_a_data_set_is_what_decides_its_bytes() -> None:
    assert spec("compute.concurrent_shards=8", "compute.device=cpu").identity == spec().identity
    assert spec(workspace="elsewhere").identity == spec().identity
    for other in (spec("seed=2"), spec("dataset.name=other"), spec(entries=(0, 1, 2)), spec(solver="other")):
        assert other.identity != spec().identity


def test_a_spec_survives_json_as_a_parameter_of_a_flow() -> None:
    made = spec()
    assert DatasetSpec.model_validate_json(made.model_dump_json()) == made
    assert made.config == Config.model_validate(made.config.model_dump(mode="json"))


class FakeTask:
    """Counts its runs; ``refresh`` says whether Prefect's cache was told to step aside."""

    name = "fit"

    def __init__(self, cached: bool = True) -> None:
        self.cached, self.runs = cached, list[bool]()

    def __call__(self, key: str, refresh: bool, return_state: bool = False) -> Any:
        self.runs.append(refresh)
        result, name = ("cached", "Cached") if self.cached and not refresh else ("fresh", "Completed")
        return SimpleNamespace(name=name, result=lambda: result) if return_state else result

    def with_options(self, *, refresh_cache: bool) -> Any:
        return lambda **parameters: self(**parameters, refresh=refresh_cache)


@pytest.mark.parametrize(
    ("cached", "refresh", "there", "result", "runs", "said"),
    [
        (True, False, True, "cached", [False], r"fit was cached \(key k\)"),
        (True, False, False, "fresh", [False, True], "anew: the files of its cached result are gone or damaged"),
        (True, True, True, "fresh", [True], "fit was made: asked for anew"),
        (False, False, True, "fresh", [False], "fit was made: no result of this input, configuration and code version"),
    ],
)
def test_a_cached_task_runs_only_where_it_must_and_the_log_says_why(
    cached: bool, refresh: bool, there: bool, result: str, runs: list[bool], said: str,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr("image_longitudinal.tasks.engine.cache_keys.get_run_logger", lambda: logging.getLogger("run"))
    task = FakeTask(cached)
    with caplog.at_level(logging.INFO, "run"):
        made = cached_or_fresh(task, lambda _: there, refresh, key="k")  # type: ignore[arg-type]
    assert (made, task.runs) == (result, runs)
    assert re.search(said, caplog.text)
