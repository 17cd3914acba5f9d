"""Rewriting a data set of layout version 1 in version 2: the same images and equal numbers, nothing is drawn."""

from collections.abc import Callable

from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.plan import Shard
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset.card import write_card
from image_longitudinal.storage.dataset.images import create_image_arrays
from image_longitudinal.storage.dataset.manifest import (
    Part,
    RootManifest,
    file_is_intact,
    finished_shard,
    read_root_manifest,
    read_shard_manifest,
    write_root_manifest,
    write_shard_manifest,
)
from image_longitudinal.storage.dataset.run_claim import begin_run
from image_longitudinal.storage.dataset.table_reader import read_table
from image_longitudinal.storage.dataset.tables import fill_columns, write_table
from image_longitudinal.storage.dataset.transfer import not_as_recorded
from image_longitudinal.storage.dataset.verify import verify_dataset
from image_longitudinal.storage.io.lease import hold_lease
from image_longitudinal.storage.io.root import FileRecord, Root, clean_temporaries, file_record

REWRITTEN = (*layout.zarr_metadata_paths(), layout.RUN_FILE, layout.CARD, layout.CROISSANT, layout.CARD_PICTURE)


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
        raise StorageError(
            "nothing to convert",
            where=source.url,
            expected="a data set of layout version 1",
            got=f"layout version {old.layout_version}",
            do=f"copy it with: image-longitudinal publish {source.url} {target.url}",
        )
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
        raise not_as_recorded(source, layout.shard_manifest_path(shard.index))
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
            raise not_as_recorded(source, file.path)
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
    finished = finished_shard(target, shard.index, keys)
    if isinstance(finished, FileRecord):
        return finished
    parts = {name: Part(key=keys[name], files=tuple(map(convert, part.files))) for name, part in manifest.parts.items()}
    return write_shard_manifest(target, manifest.model_copy(update={"layout_version": version, "parts": parts}))


def _link(source: Root, file: FileRecord, target: Root) -> FileRecord:
    if not file_is_intact(source, file, rehash=True):
        raise not_as_recorded(source, file.path)
    target.link_or_copy(source, file.path, file.path)
    return file
