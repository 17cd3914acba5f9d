"""Cache keys, written out: the task's name, its code version and a digest of what decides its result.

Prefect's own policies cannot be trusted here: INPUTS has no task identity, and tensors or sets hash differently in
every process. A result found under a key is a hint: what it points to is checked before it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from prefect import get_run_logger
from prefect.context import TaskRunContext
from prefect.tasks import Task

from image_longitudinal.core.digest import SHORT, digest_of

R = TypeVar("R")


def key_of(task: str, version: int, **decisive: Any) -> str:
    """64 hex digits that change when the task's name, its version or anything decisive changes."""
    return digest_of(task, version, decisive)


def cache_by_key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    """Prefect's ``cache_key_fn``: the task's name and the ``key`` parameter that its caller computed."""
    return f"{context.task.name}-{parameters['key']}"


def cached_or_fresh(
    task: Task[Any, R], still_there: Callable[[R], bool], refresh: bool = False, **parameters: Any
) -> R:
    """Run a cached task; anew where what its cached result points to is gone or damaged, or with ``refresh``.

    The log of the flow run says which of them it was, and why.
    """
    state = task.with_options(refresh_cache=refresh)(**parameters, return_state=True)
    result = cast(R, state.result())  # raises what the task raised
    cached, say, key = state.name == "Cached", get_run_logger().info, parameters["key"][:SHORT]
    if not still_there(result):
        say(f"{task.name} is made anew: the files of its {'cached ' if cached else ''}result are gone or damaged")
        return task.with_options(refresh_cache=True)(**parameters)
    why = "asked for anew" if refresh else f"no result of this input, configuration and code version yet (key {key})"
    say(f"{task.name} was cached (key {key})" if cached else f"{task.name} was made: {why}")
    return result
