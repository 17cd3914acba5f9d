"""Options that the project's tasks share: results as JSON under explicit keys."""

from __future__ import annotations

from typing import Any

from image_longitudinal.tasks.engine.cache_keys import cache_by_key

# JSON, never pickle: a result store is a place where code must not hide.
CACHED: dict[str, Any] = {"cache_key_fn": cache_by_key, "persist_result": True, "result_serializer": "json"}
