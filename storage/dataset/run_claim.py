"""Which data set a folder belongs to: the claim that a run writes before any other file, and who may write there."""

import json
from collections.abc import Mapping
from typing import Any, Literal

from image_longitudinal.core.digest import canonical_json
from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.files import is_temporary
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset.manifest import (
    Digest,
    Document,
    Origin,
    is_published,
    read_json,
    read_root_manifest,
    validate_document,
)
from image_longitudinal.storage.io.root import Root

RunState = Literal["new", "unfinished", "published"]


class RunClaim(Document):
    """The content of ``.run.json``: what the run in this folder makes.

    ``derived_from`` is the data set whose files are reused: any run that completes the data set reads it here.
    """

    layout_version: Literal[1, 2] = 2
    identity: Digest
    config: dict[str, Any]
    derived_from: Origin | None = None


def check_same_dataset(root: Root, identity: Digest, layout_version: int = layout.LAYOUT_VERSION) -> RunState:
    """What the root holds, if a run of the data set ``identity`` may write there.

    Returns:
        "new" for an empty root, "unfinished" for an interrupted run of the same data set, "published" for the same
        data set, complete.

    Raises:
        StorageError: the root holds another data set, another layout version or unrelated files.
    """
    found = _published_or_claimed(root)
    if found is None:
        known = (layout.LEASE, layout.HUB_FILE)
        unrelated = [path for path in root.entries() if path not in known and not is_temporary(path)]
        if unrelated:
            more = f" and {len(unrelated) - 3} more" if len(unrelated) > 3 else ""
            expected, got = "an empty folder or a run of this data set", ", ".join(unrelated[:3]) + more
            do = "choose another output, or move these files away"
            raise StorageError(
                "the output already holds other files", where=root.url, expected=expected, got=got, do=do
            )
        return "new"
    state: RunState = "published" if is_published(root) else "unfinished"
    if found.identity != identity:
        problem, expected = f"the output already holds a different data set ({state})", f"identity {identity[:12]}"
        do = "choose another output, or the configuration that made this one"
        raise StorageError(problem, where=root.url, expected=expected, got=found.identity[:12], do=do)
    if found.layout_version != layout_version:
        problem = f"the output already holds this data set in another layout ({state})"
        expected, got = f"layout version {layout_version}", str(found.layout_version)
        do = f"choose another output; image-longitudinal convert {root.url} NEW rewrites a published version 1"
        raise StorageError(problem, where=root.url, expected=expected, got=got, do=do)
    return state


def check_configuration(root: Root, config: Mapping[str, Any]) -> None:
    """Refuse, before any work, a root that holds a data set of another configuration or unrelated files.

    The identity, which :func:`begin_run` checks, also covers the image model: it is known only after training.
    """
    found = _published_or_claimed(root)
    if found is None:
        check_same_dataset(root, "")
    elif canonical_json(found.config) != canonical_json(config):
        wanted, held = _leaves(config), _leaves(found.config)
        changed = sorted(key for key in wanted | held if wanted.get(key) != held.get(key))
        problem = "the output already holds a different data set"
        expected = "the same configuration, or an empty folder"
        got = f"other values of {', '.join(changed[:4])}" + (" and more" if len(changed) > 4 else "")
        do = "choose another output (what both have in common is reused), or the old configuration"
        raise StorageError(problem, where=root.url, expected=expected, got=got, do=do)


def _published_or_claimed(root: Root) -> RunClaim | None:
    """The claim of the root, of its manifest if it is published; None if no run has begun there."""
    if is_published(root):
        return RunClaim.model_validate(read_root_manifest(root).model_dump(include=set(RunClaim.model_fields)))
    return read_run_claim(root) if root.exists(layout.RUN_FILE) else None


def _leaves(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Every value of nested mappings by its dotted name, as text."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _leaves(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = canonical_json(value)
    return flat


def begin_run(
    root: Root,
    identity: Digest,
    config: Mapping[str, Any],
    origin: Origin | None = None,
    layout_version: Literal[1, 2] = layout.LAYOUT_VERSION,
) -> RunState:
    """Check the root (:func:`check_same_dataset`) and, if it is new, write the claim before any other file.

    A claim without ``origin``, the data set whose files are reused, is replaced by one that names it.
    """
    state = check_same_dataset(root, identity, layout_version)
    if not root.exists(layout.RUN_FILE) or (origin and read_run_claim(root).derived_from is None):
        claim = RunClaim(layout_version=layout_version, identity=identity, config=dict(config), derived_from=origin)
        content = claim.model_dump(mode="json", exclude=None if origin else {"derived_from"})
        root.write_bytes(layout.RUN_FILE, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())
    return state


def read_run_claim(root: Root) -> RunClaim:
    """The claim of the run in ``root``, which exists also if ``dataset.json`` does not.

    Raises:
        StorageError: the claim is missing or damaged.
    """
    content = read_json(root, layout.RUN_FILE, root.read_small(layout.RUN_FILE))
    return validate_document(root, layout.RUN_FILE, RunClaim, content)
