"""Copying a published data set, or a part of it, to another place, shard by shard; and rewriting layout version 1.

Every byte is checked against its record while it is copied: a file with other bytes never appears under its name.
The order is that of a run (:mod:`storage.dataset.manifest`); an interrupted copy continues where it stopped.
"""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from shlex import quote

from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.errors import DamagedError, StorageError
from image_longitudinal.core.plan import Shard, shard_ranges
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset.card import write_card
from image_longitudinal.storage.dataset.consistency import part_identity
from image_longitudinal.storage.dataset.images import create_image_arrays
from image_longitudinal.storage.dataset.manifest import (
    Part,
    PartOf,
    RootManifest,
    ShardManifest,
    content_digest,
    file_is_intact,
    finished_shard,
    owns_shards,
    read_root_manifest,
    read_shard_manifest,
    render_manifest,
    write_root_manifest,
    write_shard_manifest,
)
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.storage.dataset.run_claim import begin_run, check_same_dataset
from image_longitudinal.storage.dataset.table_reader import check_is_one_of, read_table
from image_longitudinal.storage.dataset.tables import fill_columns, write_table
from image_longitudinal.storage.dataset.verify import verify_dataset
from image_longitudinal.storage.io.lease import hold_lease
from image_longitudinal.storage.io.root import FileRecord, Root, clean_temporaries, file_record

REWRITTEN = (*layout.zarr_metadata_paths(), layout.RUN_FILE, layout.CARD, layout.CROISSANT, layout.CARD_PICTURE)
HUB = "hf://"  # every write is a commit there: renewing a lease every few seconds would make many


@dataclass(frozen=True)
class Selection:
    """Which part of a data set: None selects everything."""

    splits: tuple[str, ...] | None = None
    levels: tuple[float, ...] | None = None
    shards: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Copied:
    """Progress of a copy: shards finished and in all, those of them that were complete before, bytes copied now."""

    shards: int
    of: int
    kept: int
    bytes: int


def copy_dataset(
    source: Root,
    target: Root,
    selection: Selection = Selection(),
    *,
    workers: int = 4,
    progress: Callable[[Copied], None] | None = None,
) -> RootManifest:
    """Copy a published data set, or a part that is a data set in itself.

    Files that the target has already are kept if their SHA-256 is as recorded: read from the file, or the one that the
    store computed (S3). A published copy that lost files, or has damaged ones, is completed.

    Args:
        source, target: the data set and where to copy it.
        selection: splits, levels and shards to copy.
        workers: shards copied at a time.
        progress: called after each shard.

    Returns:
        The manifest of the copy.

    Raises:
        StorageError: nothing is published at the source or a file there is not as recorded, the target holds other
            files, the selection names something that does not exist or selects nothing, or a store fails.
    """
    whole = read_root_manifest(source)
    manifest = _part(whole, selection)

    def keys(index: int) -> dict[str, str]:
        shard, original = manifest.plan.shard(index), read_shard_manifest(source, index)
        parts = _shard_of_part(original, shard, manifest).parts if original else {}
        return {name: part.key for name, part in parts.items()}

    owned = partial(owns_shards, target, keys, [shard.index for shard in manifest.plan])
    _check_target(target, manifest, owned)
    with hold_lease(target) if not target.url.startswith(HUB) else nullcontext():
        arrays = layout.zarr_metadata_paths()  # the other files describe the whole data set: a part gets its own card
        outside = [file for file in whole.files if manifest is whole or file.path in arrays]
        for file in outside:
            if file.path == layout.RUN_FILE:  # first, because it claims the target
                _copy(source, file, target)
        version = manifest.layout_version
        begin_run(target, manifest.identity, manifest.config, layout_version=version, owns_shards=owned)
        clean_temporaries(target)
        for file in outside:
            _copy(source, file, target)
        shards = _copy_shards(Dataset(source, whole), manifest, target, workers, progress)
        if manifest is not whole:
            outside.append(file_record(target, layout.RUN_FILE))
            manifest = manifest.model_copy(update={"shards": tuple(shards), "files": tuple(outside)})
            manifest = manifest.model_copy(update={"files": (*manifest.files, *write_card(target, manifest))})
        write_root_manifest(target, manifest)
        return manifest


def _part(whole: RootManifest, selection: Selection) -> RootManifest:
    """The manifest of the selected part, still without its files; ``whole`` itself if everything is selected."""
    indices = [shard.index for shard in whole.plan]
    for split in selection.splits or ():
        check_is_one_of("split", split, whole.present_splits)
    for level in selection.levels or ():
        check_is_one_of("association level", level, whole.levels)
    for index in selection.shards or ():
        check_is_one_of("shard", index, indices, shard_ranges(indices))
    splits = [split for split in whole.present_splits if selection.splits is None or split in selection.splits]
    levels = tuple(level for level in whole.levels if selection.levels is None or level in selection.levels)
    chosen = indices if selection.shards is None else sorted(set(selection.shards))
    cut = {index: [part for part in whole.plan.shard(index).splits if part.split in splits] for index in chosen}
    cut = {index: parts for index, parts in cut.items() if parts}
    counts = {
        split: sum(part.stop - part.start for parts in cut.values() for part in parts if part.split == split)
        for split in splits
    }
    n = sum(counts.values())
    if n == whole.n_subjects and levels == whole.levels:
        return whole
    if whole.layout_version == 1:
        do = "copy the whole data set and rewrite it with: image-longitudinal convert OLD NEW"
        raise StorageError("a part can be copied only from layout version 2", got="layout version 1", do=do)
    if not n or not levels:
        raise StorageError("nothing of the data set is selected", do="choose shards that hold subjects of the splits")
    of = whole.part_of or PartOf(
        identity=whole.identity,
        manifest=content_digest(whole),
        n_subjects=whole.n_subjects,
        splits=whole.splits,
        levels=whole.levels,
        shards=(),
    )
    of = of.model_copy(update={"shards": tuple(cut)})
    counts = {split: count for split, count in counts.items() if count}
    update = {"n_subjects": n, "splits": counts, "levels": levels, "part_of": of, "shards": (), "files": ()}
    part = whole.model_copy(update=update)
    return part.model_copy(update={"identity": part_identity(of, part)})


def _check_target(target: Root, manifest: RootManifest, owned: Callable[[], bool]) -> None:
    try:
        if check_same_dataset(target, manifest.identity, manifest.layout_version) != "published":
            return
    except DamagedError:
        if not owned():
            raise
        return
    published = read_root_manifest(target)
    ignored = {"shards", "files"} if manifest.part_of else set()  # those of a part are known only after copying
    if published.model_dump(exclude=ignored) != manifest.model_dump(exclude=ignored):
        expected, got = f"manifest {content_digest(manifest)[:12]}", content_digest(published)[:12]
        problem = "the target holds another version of this data set"
        do = "choose another target, or remove that version first"
        raise StorageError(problem, where=target.url, expected=expected, got=got, do=do)


def _copy_shards(
    source: Dataset, manifest: RootManifest, target: Root, workers: int, progress: Callable[[Copied], None] | None
) -> list[FileRecord]:
    """Copy every shard of the part; the records of their manifests at the target, in order."""
    listed = {file.path: file for file in source.manifest.shards}
    kept, moved = 0, 0
    records: list[FileRecord] = []
    with ThreadPoolExecutor(workers) as pool:
        pending = [
            pool.submit(_copy_shard, source, listed[layout.shard_manifest_path(shard.index)], shard, manifest, target)
            for shard in manifest.plan
        ]
        try:
            for future in pending:
                written, size = future.result()
                records.append(written)
                kept, moved = kept + (size is None), moved + (size or 0)
                if progress:
                    progress(Copied(len(records), len(pending), kept, moved))
        finally:
            pool.shutdown(cancel_futures=True)  # after an error no more shards are started
    return records


def _copy_shard(
    source: Dataset, record: FileRecord, shard: Shard, part: RootManifest, target: Root
) -> tuple[FileRecord, int | None]:
    """Copy one shard; the record of its manifest at the target, and the bytes copied (None: it was complete)."""
    if not file_is_intact(source.root, record, rehash=True):
        raise _not_as_recorded(source.root, record.path)
    original = read_shard_manifest(source.root, shard.index)
    assert original is not None, "its hash was checked above"
    wanted = _shard_of_part(original, shard, part)
    text = render_manifest(wanted)
    path = layout.shard_manifest_path(shard.index)
    expected = FileRecord(path=path, sha256=hashlib.sha256(text).hexdigest(), bytes=len(text))
    if all(file_is_intact(target, file, rehash=True) for file in (expected, *wanted.files)):
        return expected, None
    moved = sum(_copy(source.root, file, target) for file in wanted.files)
    return target.write_bytes(path, text), moved


def _shard_of_part(original: ShardManifest, shard: Shard, part: RootManifest) -> ShardManifest:
    """The manifest of a shard with only the files of the part; fewer files get another key."""
    paths = part.shard_files(shard)
    parts = {}
    for name, made in original.parts.items():
        files = tuple(file for file in made.files if file.path in paths)
        key = made.key if files == made.files else digest_of("part", made.key, sorted(file.path for file in files))
        parts[name] = Part(key=key, files=files)
    return original.model_copy(update={"parts": parts})


def _copy(source: Root, file: FileRecord, target: Root) -> int:
    """Copy one file unless the target has it; returns the bytes copied. A file that is not as recorded is refused."""
    if file_is_intact(target, file, rehash=True):
        return 0

    def checked() -> Iterator[bytes]:
        digest = hashlib.sha256()
        for block in source.blocks(file.path):
            digest.update(block)
            yield block
        if digest.hexdigest() != file.sha256:
            raise _not_as_recorded(source, file.path)

    target.write(file.path, checked(), rows=file.rows)
    if (size := target.size(file.path)) != file.bytes:
        where, expected = target.join(file.path), f"{file.bytes} bytes"
        do = "check the store, then run the same command again"
        raise StorageError("a copied file has the wrong size", where=where, expected=expected, got=size, do=do)
    return file.bytes


def _not_as_recorded(source: Root, path: str) -> StorageError:
    """The error for a file of the source that differs from its record."""
    return StorageError(
        "a file of the source is not as recorded, so it was not copied",
        where=source.join(path),
        do=f"repair the source with: image-longitudinal verify {quote(source.url)} --repair",
    )


def convert_dataset(
    source: Root, target: Root, *, workers: int = 2, progress: Callable[[int, int], None] | None = None
) -> RootManifest:
    """Rewrite a published data set of layout version 1, or a part of one, at ``target`` in layout version 2.

    Image and latent files are linked (or copied), tables are rewritten with equal values, the card and manifests are
    written again. The result is verified, then published. An interrupted conversion continues where it stopped.

    Args:
        source: of layout version 1; each file is checked against its record.
        target: an empty folder, or an earlier conversion of the same data set.
        workers: threads of the verification.
        progress: called with (shards converted, shards in all) after each shard.

    Raises:
        StorageError: nothing is published at the source, it is not of version 1 or a file is not as recorded; the
            target holds anything else; or the result does not verify.
    """
    old = read_root_manifest(source)
    if old.layout_version != 1:
        expected, got = "a data set of layout version 1", f"layout version {old.layout_version}"
        do = f"copy it with: image-longitudinal publish {quote(source.url)} {quote(target.url)}"
        raise StorageError("nothing to convert", where=source.url, expected=expected, got=got, do=do)
    new = old.model_copy(update={"layout_version": layout.LAYOUT_VERSION, "shards": (), "files": ()})
    with hold_lease(target):
        begin_run(target, new.identity, new.config, new.derived_from)
        clean_temporaries(target)
        files = [
            file_record(target, layout.RUN_FILE),
            *create_image_arrays(
                target, n=new.plan.n_subjects, height=new.image.height, width=new.image.width,
                latent_dim=new.image.latent_dim, shard_size=new.shard_size, licence=new.licence,
            ),
        ]  # fmt: skip
        files += [_link(source, file, target) for file in old.files if file.path not in REWRITTEN]
        shards = []
        for shard in new.plan:
            shards.append(_convert_shard(source, old, target, new, shard))
            if progress:
                progress(len(shards), new.plan.n_shards)
        picture = next((source.read_bytes(file.path) for file in old.files if file.path == layout.CARD_PICTURE), None)
        new = new.model_copy(update={"shards": tuple(shards), "files": tuple(files)})
        new = new.model_copy(update={"files": (*new.files, *write_card(target, new, picture))})
        report = verify_dataset(target, manifest=new, workers=workers)
        if not report.ok:
            raise StorageError(f"the converted data set does not verify: {report.problems[0]}", where=target.url)
        write_root_manifest(target, new)
    return new


def _convert_shard(source: Root, old: RootManifest, target: Root, new: RootManifest, shard: Shard) -> FileRecord:
    """Convert one shard unless the target has it; returns the record of its manifest."""
    manifest = read_shard_manifest(source, shard.index)
    if manifest is None:
        raise _not_as_recorded(source, layout.shard_manifest_path(shard.index))
    tables = {
        old.table_path(table, shard.index, part.split, level): (table, part.split, level)
        for part in shard.splits
        for table in layout.TABLES
        for level in ((None,) if table == "subjects" else new.levels)
    }

    def convert(file: FileRecord) -> FileRecord:
        if file.path not in tables:
            return _link(source, file, target)
        table, split, level = tables[file.path]
        if not file_is_intact(source, file, rehash=True):
            raise _not_as_recorded(source, file.path)
        rows = read_table(source, file.path)
        columns = {name: rows[name].combine_chunks() for name in rows.column_names}
        schema = new.table_schema(table)
        full = fill_columns(columns, schema, len(rows), shard=shard.index, split=split, level=level)
        return write_table(target, new.table_path(table, shard.index, split, level), full)

    version = layout.LAYOUT_VERSION
    keys = {
        name: part.key if name == "image" else digest_of("converted", version, part.key)
        for name, part in manifest.parts.items()
    }
    finished = finished_shard(target, shard.index, keys, rehash=True)
    if isinstance(finished, FileRecord):
        return finished
    parts = {name: Part(key=keys[name], files=tuple(map(convert, part.files))) for name, part in manifest.parts.items()}
    return write_shard_manifest(target, manifest.model_copy(update={"layout_version": version, "parts": parts}))


def _link(source: Root, file: FileRecord, target: Root) -> FileRecord:
    if not file_is_intact(source, file, rehash=True):
        raise _not_as_recorded(source, file.path)
    target.link_or_copy(source, file.path, file.path)
    return file
