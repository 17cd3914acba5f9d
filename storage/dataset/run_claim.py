"""Which data set a folder belongs to: the claim that a run writes before any other file, and who may write there.

A folder whose claim is lost to damage is recognised by its shard manifests, which name what decides their files.
"""

import contextlib
from collections.abc import Callable, Mapping
from shlex import quote
from typing import Any, Literal, NamedTuple

from image_longitudinal.core.digest import canonical_json
from image_longitudinal.core.errors import DamagedError, StorageError
from image_longitudinal.core.files import is_temporary
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset.manifest import (
    Digest,
    Document,
    Origin,
    is_published,
    read_document,
    read_root_manifest,
    render_document,
)
from image_longitudinal.storage.io.root import Root

RunState = Literal["new", "unfinished", "published"]
SHARDS = "shards"  # the folder of the shard manifests


class RunClaim(Document):
    """The content of ``.run.json``: what the run in this folder makes.

    ``derived_from`` is the data set whose files are reused: any run that completes the data set reads it here.
    """

    layout_version: Literal[1, 2] = 2
    identity: Digest
    config: dict[str, Any]
    derived_from: Origin | None = None


class _Held(NamedTuple):
    """What a folder says about itself: published or unfinished, and the claim; None if damage has taken it."""

    state: RunState
    claim: RunClaim | None


def check_same_dataset(root: Root, identity: Digest, layout_version: int = layout.LAYOUT_VERSION) -> RunState:
    """What the root holds, if a run of the data set ``identity`` may write there.

    Returns:
        "new" for an empty root, "unfinished" for an interrupted run of the same data set (also one whose root manifest
        is damaged), "published" for the same data set, complete.

    Raises:
        DamagedError: damage has taken both documents that say which data set this is.
        StorageError: the root holds another data set, another layout version or unrelated files.
    """
    found = _held(root)
    if found is None:
        _refuse_unrelated(root)
        return "new"
    if (claim := found.claim) is None:
        raise DamagedError(
            "the files that say which data set is here are damaged or missing",
            where=root.url, expected=f"an intact {layout.ROOT_MANIFEST} or {layout.RUN_FILE}",
            do="run the command that made it again, which recognises finished shards, or choose another output",
        )  # fmt: skip
    if claim.identity != identity:
        problem = f"the output already holds a different data set ({found.state})"
        expected = f"identity {identity[:12]}"
        do = "choose another output, or the configuration that made this one"
        raise StorageError(problem, where=root.url, expected=expected, got=claim.identity[:12], do=do)
    if claim.layout_version != layout_version:
        problem = f"the output already holds this data set in another layout ({found.state})"
        expected, got = f"layout version {layout_version}", str(claim.layout_version)
        do = f"choose another output; image-longitudinal convert {quote(root.url)} NEW rewrites a published version 1"
        raise StorageError(problem, where=root.url, expected=expected, got=got, do=do)
    return found.state


def _refuse_unrelated(root: Root) -> None:
    known = (layout.LEASE, layout.HUB_FILE)
    unrelated = [path for path in root.entries() if path not in known and not is_temporary(path)]
    if unrelated:
        more = f" and {len(unrelated) - 3} more" if len(unrelated) > 3 else ""
        expected, got = "an empty folder or a run of this data set", ", ".join(unrelated[:3]) + more
        do = "choose another output, or move these files away"
        raise StorageError("the output already holds other files", where=root.url, expected=expected, got=got, do=do)


def check_configuration(root: Root, config: Mapping[str, Any]) -> None:
    """Refuse, before any work, a root that holds a data set of another configuration or unrelated files.

    The identity, which :func:`begin_run` checks, also covers the image model: it is known only after training. A root
    whose claim is damaged passes here: its shard manifests decide in :func:`begin_run`.
    """
    found = _held(root)
    if found is None:
        _refuse_unrelated(root)
    elif found.claim and canonical_json(found.claim.config) != canonical_json(config):
        wanted, held = _leaves(config), _leaves(found.claim.config)
        changed = sorted(key for key in wanted | held if wanted.get(key) != held.get(key))
        problem = "the output already holds a different data set"
        expected = "the same configuration, or an empty folder"
        got = f"other values of {', '.join(changed[:4])}" + (" and more" if len(changed) > 4 else "")
        do = "choose another output (what both have in common is reused), or the old configuration"
        raise StorageError(problem, where=root.url, expected=expected, got=got, do=do)


def _held(root: Root) -> _Held | None:
    """What the root holds; None if no run has begun there.

    Raises:
        DamagedError: a root manifest is damaged, and nothing else says that it is of this project.
    """
    damaged: DamagedError | None = None
    if is_published(root):
        try:
            manifest = read_root_manifest(root)
            return _Held("published", RunClaim.model_validate(manifest.model_dump(include=set(RunClaim.model_fields))))
        except DamagedError as error:
            damaged = error  # the claim says the same
    claimed = root.exists(layout.RUN_FILE)
    if claimed:
        with contextlib.suppress(DamagedError):  # the shard manifests must do
            return _Held("unfinished", read_run_claim(root))
    if claimed or SHARDS in root.entries():
        return _Held("unfinished", None)
    if damaged:
        raise damaged
    return None


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
    *,
    owns_shards: Callable[[], bool] = lambda: False,
) -> RunState:
    """Check the root (:func:`check_same_dataset`) and, if it is new, write the claim before any other file.

    A claim without ``origin``, the data set whose files are reused, is replaced by one that names it, and a damaged
    one is written again. If damage has taken all that says whose the root is, ``owns_shards`` decides: whether the
    shards that are finished there are those of this run.
    """
    found = _held(root)
    lost = found is not None and found.claim is None
    if lost and (owns_shards() or not root.files(SHARDS)):
        state: RunState = "unfinished"
    else:
        state = check_same_dataset(root, identity, layout_version)
    known = found.claim.derived_from if found and found.claim else None
    if not _claim_is_intact(root) or (origin and known is None):
        origin = origin or known
        claim = RunClaim(layout_version=layout_version, identity=identity, config=dict(config), derived_from=origin)
        content = claim.model_dump(mode="json", exclude=None if origin else {"derived_from"})
        root.write_bytes(layout.RUN_FILE, render_document(content))
    return state


def _claim_is_intact(root: Root) -> bool:
    try:
        return root.exists(layout.RUN_FILE) and bool(read_run_claim(root))
    except DamagedError:
        return False


def read_run_claim(root: Root) -> RunClaim:
    """The claim of the run in ``root``, which exists also if ``dataset.json`` does not.

    Raises:
        DamagedError: the claim is not as it was written. Those from before claims had a digest are taken as they are.
        StorageError: there is none.
    """
    return read_document(root, layout.RUN_FILE, RunClaim, digest=False)
