"""Manifests: what a shard holds, what a data set is, and whether it is published.

Order of a run: :func:`storage.dataset.run_claim.begin_run` claims the root, each shard's files are written and then its
manifest, and :func:`write_root_manifest` writes ``dataset.json`` last. A shard without a manifest is not finished, and
a root without ``dataset.json`` is not published.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from image_longitudinal.core.digest import SEAL, digest_of, sealed_json
from image_longitudinal.core.errors import DamagedError, StorageError
from image_longitudinal.core.gates import Gate
from image_longitudinal.core.json_input import parse_json
from image_longitudinal.core.names import Digest as Digest
from image_longitudinal.core.names import FileName, Label, Paragraphs
from image_longitudinal.core.plan import SPLITS, Shard, ShardPlan
from image_longitudinal.core.readability import Readability
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset.limits import MAX_SHARD, MAX_SIDE, MAX_SUBJECTS, check_limits
from image_longitudinal.storage.dataset.study_columns import NO_STUDY, StudyColumns
from image_longitudinal.storage.dataset.study_info import DoseSlots, StudyInfo
from image_longitudinal.storage.dataset.tables import PlannedDose
from image_longitudinal.storage.io.root import FileRecord, Root, file_record

Split = Annotated[str, Field(pattern=f"^({'|'.join(SPLITS)})$")]
Level = Annotated[float, Field(gt=0, le=1)]
_OMITTED_IF_NONE = ("derived_from", "part_of", "readability", "gates", "study")


class Document(BaseModel):
    """A JSON document of a data set. Names in it are checked here, once: readers use them in paths and texts."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


DocumentT = TypeVar("DocumentT", bound=Document)


class Part(Document):
    """Files of one shard that are made together; ``key`` is the digest of everything that decides their content."""

    key: Digest
    files: tuple[FileRecord, ...]


class ShardManifest(Document):
    """The truth about one shard: subjects ``start <= id < stop``, and the files of each part (image, outcomes)."""

    layout_version: Literal[1, 2] = 2
    index: int = Field(ge=0)
    start: int = Field(ge=0)
    stop: int = Field(gt=0)
    parts: dict[Label, Part]
    versions: dict[Label, Label] = {}

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """Every file of the shard, in the order of the parts."""
        return tuple(file for part in self.parts.values() for file in part.files)


class ImageInfo(Document):
    """The images and the model that made them."""

    height: int = Field(gt=0, le=MAX_SIDE)
    width: int = Field(gt=0, le=MAX_SIDE)
    latent_dim: int = Field(gt=0)
    backend: Label  # phantom, vae, diffusion or a custom one
    model: Label
    version: Label
    digest: Label  # 64 hex digits, unless a custom backend names itself otherwise


class Origin(Document):
    """The data set that another one was derived from, identified by its content and not by its address."""

    name: FileName
    identity: Digest
    manifest: Digest  # content_sha256 of its dataset.json
    reused: dict[Label, int]  # by part (image, outcomes): the number of shards whose files are shared


class PartOf(Document):
    """The whole data set that this one is a part of; ids, image indices and shards stay those of the whole."""

    identity: Digest
    manifest: Digest  # content_sha256 of its dataset.json
    n_subjects: int = Field(gt=0, le=MAX_SUBJECTS)
    splits: dict[Split, Annotated[int, Field(ge=0)]]
    levels: tuple[Level, ...]
    shards: tuple[int, ...]  # those in the part


class RootManifest(Document):
    """What a published data set is. ``files`` are those outside the shards: Zarr metadata, card, reports.

    In a part of a data set the counts are those of the part, and ``part_of`` describes the whole.
    """

    layout_version: Literal[1, 2] = 2
    name: FileName
    # ISO 8601, from the configuration: the time of the run would change the bytes
    date: str | None = Field(None, pattern=r"^[0-9-]{1,32}$")
    identity: Digest  # of everything that decides the content: runs with equal identities make the same data set
    config: dict[str, Any]
    config_digest: Digest
    seed: int
    n_subjects: int = Field(gt=0, le=MAX_SUBJECTS)
    shard_size: int = Field(gt=0, le=MAX_SHARD)
    splits: dict[Split, Annotated[int, Field(ge=0)]]  # subjects per split
    levels: tuple[Level, ...] = Field(min_length=1)  # association levels
    random_effects: tuple[Label, ...]  # what eta_1, eta_2, … act on
    eta_latents: tuple[int, ...] | None = None  # latent dimension (from 0) of eta_1, eta_2, …; None if they are mixed
    parameters: tuple[Label, ...]  # individual parameters, columns of random_effects
    times: tuple[float, ...] = Field(min_length=1)
    doses: tuple[PlannedDose, ...]
    units: dict[Label, Label] = dict(layout.DEFAULT_UNITS)
    image: ImageInfo
    shards: tuple[FileRecord, ...]  # the shard manifests
    files: tuple[FileRecord, ...]
    versions: dict[Label, Label]  # of the packages that made it
    licence: Label  # SPDX identifier
    citation: Paragraphs
    derived_from: Origin | None = None
    part_of: PartOf | None = None
    readability: Readability | None = None  # None, as gates: published before they were measured
    gates: tuple[Gate, ...] | None = None  # what was wanted of model and data set, and what was accepted on purpose
    study: StudyInfo | None = None

    @model_validator(mode="after")
    def _asks_nothing_impossible(self) -> Self:
        check_limits(self)
        return self

    @property
    def plan(self) -> ShardPlan:
        """The shard plan behind the counts; of a part, only the shards and splits in it."""
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

    def table_path(self, table: str, shard: int, split: str, level: float | None = None) -> str:
        """:func:`storage.dataset.layout.table_path` in this data set's layout version."""
        return self._stored(layout.table_path(table, shard, split, level))

    def table_schema(self, table: str) -> pa.Schema:
        """The columns of a table in this data set's layout version; ``table`` is one of :attr:`tables`."""
        n_eta, infusions = len(self.random_effects), any(dose.rate for dose in self.dose_slots.slots)
        schema = layout.table_columns(
            table, n_eta, self.parameters, self.units, licence=self.licence, infusions=infusions,
            study=self.study_columns, times=self.times,
        )  # fmt: skip
        return layout.columns_in_version_1(table, schema) if self.layout_version == 1 else schema

    def shard_files(self, shard: Shard) -> set[str]:
        """Paths of all data files of a shard in this data set's layout version."""
        return {self._stored(path) for path in layout.shard_files(shard, self.levels, self.tables)}

    @property
    def study_columns(self) -> StudyColumns:
        """What the study design adds to the tables."""
        return self.study.columns if self.study else NO_STUDY

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of all tables: those of every data set, and those in ``truth/``."""
        return (*layout.TABLES, *self.study_columns.truth)

    @property
    def dose_slots(self) -> DoseSlots:
        """The dose rows of every subject, and what each arm gets there."""
        arms = self.study.arms if self.study else ()
        return DoseSlots([arm.doses for arm in arms] or [self.doses])

    @property
    def has_own_associations(self) -> bool:
        """Whether random effects have other associations with the image than the level says."""
        return bool(self.study and any(set(each) != {float(level)} for level, each in self.study.association.items()))

    def designed(self, level: float) -> tuple[float, ...]:
        """Designed association of each random effect: the level, unless a study design gives the effects their own."""
        own = self.study.association[layout.level_name(level)] if self.study else None
        return tuple(own) if own else (level,) * len(self.random_effects)

    def rows_of_a_subject(self, table: str) -> int:
        """Rows that every subject has in a table."""
        if table == "observations":
            return len(self.times) + len(self.dose_slots.slots)
        many = table in self.study_columns.truth and layout.has_levels(table)
        return len(self.study_columns.arms) if many else 1

    def _stored(self, path: str) -> str:
        return layout.path_in_version_1(path) if self.layout_version == 1 else path


def write_shard_manifest(root: Root, manifest: ShardManifest) -> FileRecord:
    """Write a shard's manifest: after all its files, because it marks the shard as finished."""
    return root.write_bytes(layout.shard_manifest_path(manifest.index), render_manifest(manifest))


def read_shard_manifest(root: Root, index: int) -> ShardManifest | None:
    """The manifest of a shard, or None if it has none.

    Raises:
        StorageError: the manifest is damaged or not this shard's.
    """
    path = layout.shard_manifest_path(index)
    if not root.exists(path):
        return None
    manifest = read_document(root, path, ShardManifest)
    if manifest.index != index:
        problem = "a shard manifest is in the wrong place"
        raise StorageError(problem, where=root.join(path), expected=index, got=manifest.index)
    return manifest


NOT_MADE = "not made yet"  # a shard without a manifest


def finished_shard(root: Root, index: int, keys: Mapping[str, Digest], *, rehash: bool) -> FileRecord | str:
    """The record of the manifest of a finished shard, or the reason, a short text, why it is not finished.

    In a finished shard the parts have these ``keys``, by the part's name, and all files are intact
    (:func:`file_is_intact` with ``rehash``).
    """
    try:
        manifest = read_shard_manifest(root, index)
    except StorageError:
        return "its manifest is damaged"
    if manifest is None:
        return NOT_MADE
    found = {name: part.key for name, part in manifest.parts.items()}
    if found != dict(keys):
        different = [name for name in sorted({*found, *keys}) if found.get(name) != keys.get(name)]
        return f"{' and '.join(different)} of another configuration, model or code version"
    for part in manifest.parts.values():
        if damaged := next((file.path for file in part.files if not file_is_intact(root, file, rehash=rehash)), None):
            return f"{damaged} is missing or damaged"
    return file_record(root, layout.shard_manifest_path(index))


def owns_shards(root: Root, keys: Callable[[int], Mapping[str, Digest]], indices: Iterable[int]) -> bool:
    """Whether the root has shard manifests, and all that are intact have these parts, by shard index."""
    found = False
    for index in indices:
        with contextlib.suppress(DamagedError):
            if manifest := read_shard_manifest(root, index):
                if {name: part.key for name, part in manifest.parts.items()} != dict(keys(index)):
                    return False
                found = True
    return found


def write_root_manifest(root: Root, manifest: RootManifest) -> FileRecord:
    """Write ``dataset.json``, which publishes the data set.

    The claim of the run stays: if ``dataset.json`` is lost, the same command recognises the files and completes them.
    """
    return root.write_bytes(layout.ROOT_MANIFEST, render_manifest(manifest))


def is_published(root: Root) -> bool:
    """Whether the root holds a published data set."""
    return root.exists(layout.ROOT_MANIFEST)


def require_published(root: Root) -> None:
    """Check that the root holds a published data set.

    Raises:
        StorageError: nothing is published here.
    """
    if not is_published(root):
        expected = f"a {layout.ROOT_MANIFEST}, which is written when a data set is complete"
        do = "check the address, or finish the run with the command that started it"
        raise StorageError("no published data set here", where=root.url, expected=expected, do=do)


def read_root_manifest(root: Root) -> RootManifest:
    """The manifest of a published data set.

    Raises:
        StorageError: nothing is published here, its layout version is unknown, or ``dataset.json`` is damaged.
    """
    require_published(root)
    return read_document(root, layout.ROOT_MANIFEST, RootManifest)


def file_is_intact(root: Root, file: FileRecord, *, rehash: bool) -> bool:
    """Whether a file exists with the recorded size, and with ``rehash`` also the recorded SHA-256.

    ``rehash`` is for files of unknown history, from an earlier run, a cache or another data set: a file that this run
    wrote was hashed while it was written. A store's own SHA-256 counts like one from reading the file.
    """
    if root.size(file.path) != file.bytes:
        return False
    return not rehash or (root.vouched_sha256(file.path) or root.sha256(file.path)) == file.sha256


def part_is_intact(root: Root, part: Part, *, rehash: bool) -> bool:
    """Whether every file of a part is intact; see :func:`file_is_intact`."""
    return all(file_is_intact(root, file, rehash=rehash) for file in part.files)


def content_digest(manifest: RootManifest | ShardManifest) -> Digest:
    """The ``content_sha256`` of a manifest."""
    return digest_of(_content(manifest))


def render_manifest(manifest: RootManifest | ShardManifest) -> bytes:
    """The text of a manifest."""
    return render_document(_content(manifest))


def _content(manifest: RootManifest | ShardManifest) -> dict[str, Any]:
    content = manifest.model_dump(mode="json")
    return {key: value for key, value in content.items() if value is not None or key not in _OMITTED_IF_NONE}


def render_document(content: Mapping[str, Any]) -> bytes:
    """A document as JSON with a digest of its own content, so that damage is found without a record elsewhere."""
    return sealed_json(content).encode()


def read_document(root: Root, path: str, kind: type[DocumentT], *, digest: bool = True) -> DocumentT:
    """A document with a digest of its own content (:func:`render_document`); ``digest``: whether it must have one.

    Raises:
        DamagedError: it is not as it was written.
        StorageError: its layout version is unknown, or it cannot be read.
    """
    data = root.read_small(path)
    content = _read_json(root, path, data)
    written = content.pop(SEAL, None)
    has_digest = digest or written is not None
    if has_digest and written != _digest_or_none(content):
        raise _damaged(root, path, "content that does not match its digest")
    version = content.get("layout_version")
    if isinstance(version, int) and not 1 <= version <= layout.LAYOUT_VERSION:
        problem, expected = "the layout of this data set is unknown", f"layout version 1 to {layout.LAYOUT_VERSION}"
        do = "read it with the version of image-longitudinal that made it, or generate it again"
        raise StorageError(problem, where=root.join(path), expected=expected, got=version, do=do)
    document = _validate(root, path, kind, content)
    if has_digest and render_document(content) != data:  # the stored content: fields may have been added since
        raise _damaged(root, path, "another text than that of its content")
    return document


def _digest_or_none(content: Mapping[str, Any]) -> Digest | None:
    try:
        return digest_of(content)
    except ValueError:  # NaN, which no document of ours holds
        return None


def _read_json(root: Root, path: str, data: bytes) -> dict[str, Any]:
    """The JSON object in ``data``, the content of ``path``; DamagedError if it is not one."""
    try:
        content = parse_json(data)
    except ValueError as error:  # neither UTF-8 nor JSON, or too large or deep
        raise _damaged(root, path, error) from error
    if not isinstance(content, dict):
        raise _damaged(root, path, type(content).__name__)
    return content


def _validate(root: Root, path: str, kind: type[DocumentT], content: Mapping[str, Any]) -> DocumentT:
    """The document in the JSON object of ``path``; DamagedError if a field is missing, unknown or wrong."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise _damaged(root, path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _damaged(root: Root, path: str, got: object) -> DamagedError:
    """The error for a manifest that is not as it was written."""
    do = "verify the data set with --repair, or repeat the command that made it: finished shards are kept"
    return DamagedError(
        "a manifest is damaged", where=root.join(path), expected="the document as written", got=got, do=do
    )
