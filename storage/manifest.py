"""Manifests: what a shard holds, what a data set is, and whether it is published.

Order of a run: :func:`begin_run` claims the root, each shard's files are written and then its manifest, and
:func:`publish` writes ``dataset.json`` last. A shard without a manifest, or a root without ``dataset.json``, is
not done.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.digest import canonical_json, digest_of
from core.errors import StorageError
from core.plan import SPLITS, ShardPlan
from storage import layout
from storage.filesystem import FileRecord, Root, file_record, is_temporary
from storage.tables import Dose

RunState = Literal["new", "unfinished", "published"]
Digest = str  # 64 hex digits
_LEFT_OUT = ("derived_from", "part_of")  # where they are None: most data sets are neither


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


DocumentT = TypeVar("DocumentT", bound=_Document)


class Part(_Document):
    """Files of one shard that are made together: ``key`` is the content digest of everything that made them."""

    key: Digest
    files: tuple[FileRecord, ...]


class ShardManifest(_Document):
    """The truth about one shard: subjects ``start <= id < stop``, and the files of each part (image, outcomes)."""

    layout_version: Literal[1] = 1
    index: int = Field(ge=0)
    start: int = Field(ge=0)
    stop: int = Field(gt=0)
    parts: dict[str, Part]
    versions: dict[str, str] = {}

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """Every file of the shard, in the order of the parts."""
        return tuple(file for part in self.parts.values() for file in part.files)


class ImageInfo(_Document):
    """The images and the model that made them."""

    height: int = Field(gt=0)
    width: int = Field(gt=0)
    latent_dim: int = Field(gt=0)
    backend: str  # phantom, vae, diffusion or a user's own
    model: str
    version: str
    digest: Digest


class Origin(_Document):
    """The data set that another was derived from, by what it is, wherever it lies."""

    name: str
    identity: Digest
    manifest: Digest  # content_sha256 of its dataset.json
    reused: dict[str, int]  # shards whose files of a part (image, outcomes) are its files, by part


class PartOf(_Document):
    """The whole of which a data set is a part; ids, image indices and shards stay those of the whole."""

    identity: Digest
    manifest: Digest  # content_sha256 of its dataset.json
    n_subjects: int = Field(gt=0)
    splits: dict[str, int]
    levels: tuple[float, ...]
    shards: tuple[int, ...]  # those that are here


class RootManifest(_Document):
    """What a published data set is. ``files`` are those outside the shards: Zarr metadata, card, reports.

    In a part of a data set the counts are those of the part, and ``part_of`` says what is needed of the whole.
    """

    layout_version: Literal[1] = 1
    name: str
    date: str | None = None  # ISO 8601, as stated in the configuration: a clock here would change bytes from run to run
    identity: Digest  # of everything that decides the content: two runs with one identity make the same data set
    config: dict[str, Any]
    config_digest: Digest
    seed: int
    n_subjects: int = Field(gt=0)
    shard_size: int = Field(gt=0)
    splits: dict[str, int]  # subjects per split
    levels: tuple[float, ...]  # association levels
    random_effects: tuple[str, ...]  # what eta_1, eta_2, … act on
    eta_latents: tuple[int, ...] | None = (
        None  # latent entry (from 0) that is eta_1, eta_2, …; None if not plain entries
    )
    parameters: tuple[str, ...]  # individual parameters, columns of random_effects
    times: tuple[float, ...]
    doses: tuple[Dose, ...]
    units: dict[str, str] = dict(layout.DEFAULT_UNITS)
    image: ImageInfo
    shards: tuple[FileRecord, ...]  # the shard manifests
    files: tuple[FileRecord, ...]
    versions: dict[str, str]  # of the packages that made it
    licence: str  # SPDX identifier
    citation: str
    derived_from: Origin | None = None
    part_of: PartOf | None = None

    @property
    def plan(self) -> ShardPlan:
        """The shard plan behind the counts; of a part, only the shards and splits that are here."""
        whole = self.part_of or self
        n, splits = whole.n_subjects, whole.splits
        return ShardPlan(
            n,
            self.shard_size,
            splits.get("validation", 0) / n,
            splits.get("test", 0) / n,
            only_shards=self.part_of.shards if self.part_of else None,
            only_splits=self.present_splits if self.part_of else None,
        )

    @property
    def present_splits(self) -> tuple[str, ...]:
        """Splits that have subjects, in the order of their ids."""
        return tuple(split for split in SPLITS if self.splits.get(split))


def render_shard_manifest(manifest: ShardManifest) -> bytes:
    """The text of a shard's manifest."""
    return _render(manifest)


def write_shard_manifest(root: Root, manifest: ShardManifest) -> FileRecord:
    """Write a shard's manifest: only after all its files, for it says that they are done."""
    return root.write_bytes(layout.shard_manifest_path(manifest.index), _render(manifest))


def read_shard_manifest(root: Root, index: int) -> ShardManifest | None:
    """The manifest of a shard, or None if it has none.

    Raises:
        StorageError: if there is one but it is damaged or not this shard's.
    """
    path = layout.shard_manifest_path(index)
    if not root.exists(path):
        return None
    manifest = _read(root, path, ShardManifest)
    if manifest.index != index:
        raise StorageError(
            "a shard manifest is in the wrong place", where=root.join(path), expected=index, got=manifest.index
        )
    return manifest


def finished_shard(root: Root, index: int, keys: Mapping[str, Digest]) -> FileRecord | str:
    """The record of a shard's manifest where the shard is done: made under these keys, every file there at its size.

    Args:
        root: where the data set is.
        index: the shard.
        keys: by the name of each part, what it must have been made by.

    Returns:
        Where the shard is to be made (again): why, in words.
    """
    try:
        manifest = read_shard_manifest(root, index)
    except StorageError:
        return "its manifest is damaged"
    if manifest is None:
        return "not made yet"
    there = {name: part.key for name, part in manifest.parts.items()}
    if there != dict(keys):
        others = [name for name in sorted({*there, *keys}) if there.get(name) != keys.get(name)]
        return f"{' and '.join(others)} of another configuration, model or code version"
    if not all(part_is_intact(root, part, rehash=False) for part in manifest.parts.values()):
        return "a file is missing or has another size"
    return file_record(root, layout.shard_manifest_path(index))


def publish(root: Root, manifest: RootManifest) -> FileRecord:
    """Write ``dataset.json``: from here on the data set is published.

    The mark of the run stays: should ``dataset.json`` be lost, the same command recognises the rest and goes on.
    """
    return root.write_bytes(layout.ROOT_MANIFEST, _render(manifest))


def is_published(root: Root) -> bool:
    """Whether the root holds a published data set."""
    return root.exists(layout.ROOT_MANIFEST)


def read_root_manifest(root: Root) -> RootManifest:
    """The manifest of a published data set.

    Raises:
        StorageError: if nothing is published here, it has another layout version, or ``dataset.json`` is damaged.
    """
    if not is_published(root):
        raise StorageError(
            "no published data set here",
            where=root.url,
            expected=f"a {layout.ROOT_MANIFEST}, which is written when a data set is complete",
            do="check the address, or finish the run by giving the command that started it again",
        )
    return _read(root, layout.ROOT_MANIFEST, RootManifest)


def check_same_dataset(root: Root, identity: Digest) -> RunState:
    """What the root holds, if a run of the data set ``identity`` may write there.

    Returns:
        "new" for an empty root, "unfinished" for an interrupted run of the same data set, "published" for the same
        data set, complete.

    Raises:
        StorageError: if another data set or unrelated files are there.
    """
    if is_published(root):
        there, state = read_root_manifest(root).identity, "published"
    elif root.exists(layout.RUN_FILE):
        there, state = (
            str(_parse(root, layout.RUN_FILE, root.read_bytes(layout.RUN_FILE)).get("identity")),
            "unfinished",
        )
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
    return "published" if state == "published" else "unfinished"


def check_configuration(root: Root, config: Mapping[str, Any]) -> None:
    """Refuse, before any work, a root that holds a data set of another configuration or unrelated files.

    The identity, which :func:`begin_run` checks, also covers the image model: it is known only once that is trained.
    """
    if is_published(root):
        there = read_root_manifest(root).config
    elif root.exists(layout.RUN_FILE):
        there = _parse(root, layout.RUN_FILE, root.read_bytes(layout.RUN_FILE)).get("config", {})
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
    content = _parse(root, layout.RUN_FILE, root.read_bytes(layout.RUN_FILE)).get("derived_from")
    return Origin.model_validate(content) if content else None


def read_run_mark(root: Root) -> tuple[Digest, dict[str, Any]]:
    """Identity and configuration of the run in ``root``: its mark is there also where ``dataset.json`` is not.

    Raises:
        StorageError: if the mark is gone or damaged too.
    """
    mark = _parse(root, layout.RUN_FILE, root.read_bytes(layout.RUN_FILE))
    if not isinstance(mark.get("identity"), str) or not isinstance(mark.get("config"), dict):
        raise _damaged(root, layout.RUN_FILE, "a mark without identity or configuration")
    return mark["identity"], mark["config"]


def file_is_intact(root: Root, file: FileRecord, *, rehash: bool) -> bool:
    """Whether a file is there with the recorded size, and with ``rehash`` also the recorded SHA-256."""
    return root.size(file.path) == file.bytes and (not rehash or root.sha256(file.path) == file.sha256)


def part_is_intact(root: Root, part: Part, *, rehash: bool) -> bool:
    """Whether every file of a part is intact; ``rehash`` reads them, else names and sizes have to do."""
    return all(file_is_intact(root, file, rehash=rehash) for file in part.files)


def content_digest(document: _Document) -> Digest:
    """The ``content_sha256`` of a manifest: of all that it says."""
    return digest_of(_content(document))


def _content(document: _Document) -> dict[str, Any]:
    content = document.model_dump(mode="json")
    return {key: value for key, value in content.items() if value is not None or key not in _LEFT_OUT}


def _render(document: _Document) -> bytes:
    """A document as text for people too, with a digest of its own content: damage shows without an outer record."""
    content = _content(document)
    content["content_sha256"] = digest_of(content)
    return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _read(root: Root, path: str, kind: type[DocumentT]) -> DocumentT:
    data = root.read_bytes(path)
    content = _parse(root, path, data)
    version = content.get("layout_version")
    if version != layout.LAYOUT_VERSION and isinstance(version, int):
        raise StorageError(
            "this data set has another layout",
            where=root.join(path),
            expected=f"layout version {layout.LAYOUT_VERSION}",
            got=version,
            do="read it with the version of image-longitudinal that made it, or generate it again",
        )
    try:
        document = kind.model_validate({key: value for key, value in content.items() if key != "content_sha256"})
    except ValidationError as error:
        first = error.errors()[0]
        raise _damaged(root, path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if _render(document) != data:
        raise _damaged(root, path, "a content that its digest does not fit")
    return document


def _parse(root: Root, path: str, data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except ValueError as error:  # neither UTF-8 nor JSON
        raise _damaged(root, path, error) from error
    if not isinstance(content, dict):
        raise _damaged(root, path, type(content).__name__)
    return content


def _damaged(root: Root, path: str, got: object) -> StorageError:
    do = "verify the data set with repair, or remove this file and give the command that made it again"
    return StorageError(
        "a manifest is damaged", where=root.join(path), expected="the document as written", got=got, do=do
    )
