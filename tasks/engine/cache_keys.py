"""Cached tasks: the cache key is the task's name and a digest of what decides its result.

Prefect's own policies are not used: INPUTS has no task identity, and tensors or sets hash differently in every process.
A result found under a key is only a hint: its files are checked before use.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from prefect import get_run_logger
from prefect.context import TaskRunContext
from prefect.tasks import Task

from image_longitudinal.core.digest import SHORT

R = TypeVar("R")


def cache_by_key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    """Prefect's ``cache_key_fn``: the task's name, and its parameter ``key`` or else the digest of its ``spec``."""
    return f"{context.task.name}-{_key(parameters)}"


def _key(parameters: dict[str, Any]) -> str:
    return str(parameters["key"] if "key" in parameters else parameters["spec"].digest)


# Arguments of ``task``. JSON, not pickle: reading a stored result must not run code. Prefect restores frozen pydantic
# models from it.
CACHED: dict[str, Any] = {"cache_key_fn": cache_by_key, "persist_result": True, "result_serializer": "json"}


def cached_or_fresh(
    task: Task[Any, R], still_there: Callable[[R], bool], refresh: bool = False, **parameters: Any
) -> R:
    """Run a cached task; run it again if the files of its cached result are gone or damaged, or with ``refresh``.

    The log of the flow run says which of these happened, and why.
    """
    state = task.with_options(refresh_cache=refresh)(**parameters, return_state=True)
    result = cast(R, state.result())  # raises what the task raised
    cached, log, key = state.name == "Cached", get_run_logger().info, _key(parameters)[:SHORT]
    if not still_there(result):
        log(f"{task.name} runs again: the files of its {'cached ' if cached else ''}result are gone or damaged")
        return task.with_options(refresh_cache=True)(**parameters)
    why = "refresh was requested" if refresh else "no result for this input, configuration and code version"
    log(f"{task.name} was cached (key {key})" if cached else f"{task.name} was run: {why} (key {key})")
    return result
