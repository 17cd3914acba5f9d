"""Manifests: what a shard holds, what a data set is, and whether it is published.

Order of a run: :func:`storage.dataset.run_claim.begin_run` claims the root, each shard's files are written and then its
manifest, and :func:`publish` writes ``dataset.json`` last. A shard without a manifest, or a root without
``dataset.json``, is not done.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.plan import SPLITS, ShardPlan
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset.tables import Dose
from image_longitudinal.storage.io.root import FileRecord, Root, file_record

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
    return _text(_content(document))


def _text(content: Mapping[str, Any]) -> bytes:
    """A document as text for people too, with a digest of its own content: damage shows without an outer record."""
    content = {**content, "content_sha256": digest_of(content)}
    return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _read(root: Root, path: str, kind: type[DocumentT]) -> DocumentT:
    data = root.read_bytes(path)
    content = read_json(root, path, data)
    version = content.get("layout_version")
    if version != layout.LAYOUT_VERSION and isinstance(version, int):
        raise StorageError(
            "this data set has another layout",
            where=root.join(path),
            expected=f"layout version {layout.LAYOUT_VERSION}",
            got=version,
            do="read it with the version of image-longitudinal that made it, or generate it again",
        )
    content.pop("content_sha256", None)
    try:
        document = kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise damaged(root, path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if _text(content) != data:  # not the document's own text, which says more where the software has learnt more
        raise damaged(root, path, "a content that its digest does not fit")
    return document


def read_json(root: Root, path: str, data: bytes) -> dict[str, Any]:
    """The JSON object in ``data``, the content of ``path``; StorageError where it is none."""
    try:
        content = json.loads(data)
    except ValueError as error:  # neither UTF-8 nor JSON
        raise damaged(root, path, error) from error
    if not isinstance(content, dict):
        raise damaged(root, path, type(content).__name__)
    return content


def damaged(root: Root, path: str, got: object) -> StorageError:
    """What to raise where a manifest is not as it was written."""
    do = "verify the data set with repair, or remove this file and give the command that made it again"
    return StorageError(
        "a manifest is damaged", where=root.join(path), expected="the document as written", got=got, do=do
    )
