"""Cache keys and cached tasks. The digests of specs are tested with the specs."""

import logging
import re
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.serializers import JSONSerializer

from image_longitudinal.core.digest import digest_of
from image_longitudinal.storage.dataset.manifest import Part
from image_longitudinal.tasks.engine.cache_keys import cache_by_key, cached_or_fresh
from image_longitudinal.tasks.shards.image_shards import ShardPartResult


@pytest.mark.parametrize("inputs", [{"key": "k", "x": 1}, {"spec": SimpleNamespace(digest="k"), "x": 1}])
def test_a_cache_key_names_the_task_and_the_digest_of_what_decides_its_result(inputs: dict[str, Any]) -> None:
    """Prefect's INPUTS policy has no task identity: two tasks would share one result."""
    context = SimpleNamespace(task=SimpleNamespace(name="make-images"))
    assert cache_by_key(context, inputs) == "make-images-k"  # type: ignore[arg-type]


def test_results_are_restored_as_records() -> None:
    """Prefect's JSON serializer, which cached tasks use."""
    result = ShardPartResult(root="somewhere", part=Part(key=digest_of("key"), files=()))
    serializer = JSONSerializer()
    assert serializer.loads(serializer.dumps(result)) == result


class FakeTask:
    """Counts its runs; ``refresh`` says whether the cached result is ignored."""

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
