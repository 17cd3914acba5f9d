"""Cache keys and cached tasks. The digests of specs have tests of their own."""

import logging
import re
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.serializers import JSONSerializer

from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.presets import load_config
from image_longitudinal.storage.dataset.manifest import Part
from image_longitudinal.tasks.engine.cache_keys import cache_by_key, cached_or_fresh, key_of
from image_longitudinal.tasks.shards.parts import ShardPartResult

DEMO = load_config("demo")


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


def test_the_key_of_a_spec_is_its_digest() -> None:
    context = SimpleNamespace(task=SimpleNamespace(name="make-images"))
    assert cache_by_key(context, {"spec": SimpleNamespace(digest="d"), "x": 1}) == "make-images-d"  # type: ignore[arg-type]


def test_results_are_restored_as_records() -> None:
    """Prefect's JSON serializer, which cached tasks use."""
    result = ShardPartResult(root="somewhere", part=Part(key=digest_of("key"), files=()))
    serializer = JSONSerializer()
    assert serializer.loads(serializer.dumps(result)) == result


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
        (True, False, False, "fresh", [False, True], "runs again: the files of its cached result are gone or damaged"),
        (True, True, True, "fresh", [True], "fit was run: refresh was requested"),
        (False, False, True, "fresh", [False], "fit was run: no result for this input, configuration and code version"),
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
