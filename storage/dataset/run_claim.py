"""Whose output a folder is: the mark that a run leaves before any file, and what may be written there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from image_longitudinal.core.digest import canonical_json
from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.files import is_temporary
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset.manifest import (
    Digest,
    Origin,
    damaged,
    is_published,
    read_json,
    read_root_manifest,
)
from image_longitudinal.storage.io.root import Root

RunState = Literal["new", "unfinished", "published"]


def check_same_dataset(root: Root, identity: Digest) -> RunState:
    """What the root holds, if a run of the data set ``identity`` may write there.

    Returns:
        "new" for an empty root, "unfinished" for an interrupted run of the same data set, "published" for the same
        data set, complete.

    Raises:
        StorageError: if another data set or unrelated files are there.
    """
    state: RunState
    if is_published(root):
        there, state = read_root_manifest(root).identity, "published"
    elif root.exists(layout.RUN_FILE):
        there, state = str(_read_mark(root).get("identity")), "unfinished"
    else:
        ours = (layout.LEASE, layout.HUB_FILE)
        foreign = [path for path in root.entries() if path not in ours and not is_temporary(path)]
        if foreign:
            raise StorageError(
                "the output already holds other files",
                where=root.url,
                expected="an empty folder or a run of this data set",
                got=", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""),
                do="choose another output, or move these files away",
            )
        return "new"
    if there != identity:
        raise StorageError(
            f"the output already holds a different data set ({state})",
            where=root.url,
            expected=f"identity {identity[:12]}",
            got=there[:12],
            do="choose another output, or the configuration that made this one",
        )
    return state


def check_configuration(root: Root, config: Mapping[str, Any]) -> None:
    """Refuse, before any work, a root that holds a data set of another configuration or unrelated files.

    The identity, which :func:`begin_run` checks, also covers the image model: it is known only once that is trained.
    """
    if is_published(root):
        there = read_root_manifest(root).config
    elif root.exists(layout.RUN_FILE):
        there = _read_mark(root).get("config", {})
    else:
        check_same_dataset(root, "")
        return
    if canonical_json(there) != canonical_json(config):
        changed = [
            key for key in _leaves(config) | _leaves(there) if _leaves(config).get(key) != _leaves(there).get(key)
        ]
        shown = ", ".join(sorted(changed)[:4]) + (" and more" if len(changed) > 4 else "")
        raise StorageError(
            "the output already holds a different data set",
            where=root.url,
            expected="the same configuration, or an empty folder",
            got=f"other values of {shown}",
            do="choose another output (what both have in common is not made again), or the old configuration",
        )


def _leaves(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Every value of nested mappings by its dotted name, as text."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _leaves(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = canonical_json(value)
    return flat


def begin_run(root: Root, identity: Digest, config: Mapping[str, Any], origin: Origin | None = None) -> RunState:
    """Check the root (:func:`check_same_dataset`) and, where it is new, mark it as this data set's before any file.

    The mark, ``.run.json``, holds the identity, the configuration and, where there is one, the data set whose files
    are reused: whoever finishes the run knows it (:func:`origin_of_run`).
    """
    state = check_same_dataset(root, identity)
    if not root.exists(layout.RUN_FILE) or (origin and origin_of_run(root) is None):
        mark = {"layout_version": layout.LAYOUT_VERSION, "identity": identity, "config": dict(config)}
        if origin:
            mark["derived_from"] = origin.model_dump(mode="json")
        root.write_bytes(layout.RUN_FILE, (json.dumps(mark, indent=1, sort_keys=True) + "\n").encode())
    return state


def origin_of_run(root: Root) -> Origin | None:
    """The data set that the run in ``root`` takes files from, by its mark."""
    content = _read_mark(root).get("derived_from")
    return Origin.model_validate(content) if content else None


def read_run_mark(root: Root) -> tuple[Digest, dict[str, Any]]:
    """Identity and configuration of the run in ``root``: its mark is there also where ``dataset.json`` is not.

    Raises:
        StorageError: if the mark is gone or damaged too.
    """
    mark = _read_mark(root)
    if not isinstance(mark.get("identity"), str) or not isinstance(mark.get("config"), dict):
        raise damaged(root, layout.RUN_FILE, "a mark without identity or configuration")
    return mark["identity"], mark["config"]


def _read_mark(root: Root) -> dict[str, Any]:
    return read_json(root, layout.RUN_FILE, root.read_bytes(layout.RUN_FILE))
