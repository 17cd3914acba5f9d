"""Reading the Parquet tables of a data set: lazily as a pyarrow dataset, or number columns of a range of subjects."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from image_longitudinal.core.errors import DamagedError, StorageError
from image_longitudinal.core.plan import SplitRange
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset.manifest import RootManifest
from image_longitudinal.storage.dataset.parquet_limits import check_pages
from image_longitudinal.storage.io.root import Root, storage_error

if TYPE_CHECKING:
    import pyarrow.dataset as pads


FOOTERS_AT_A_TIME = 16  # files whose columns are looked up together: in a store each takes a round trip


class TableReader:
    """The tables of a data set; page checksums are verified, and columns and number of rows of each file opened."""

    def __init__(self, root: Root, manifest: RootManifest) -> None:
        self.root, self.manifest, self.plan = root, manifest, manifest.plan

    def scan(self, table: str, level: float | None, split: str | None) -> pads.Dataset:
        """A table as a lazy pyarrow dataset; see :meth:`storage.dataset.reader.Dataset.scan`."""
        splits = chosen_splits(self.manifest, split)
        parts = [(shard.index, part) for shard in self.plan for part in shard.splits if part.split in splits]
        check_is_one_of("table", table, self.manifest.tables)
        every = level is None and layout.has_levels(table)
        if every and "association" not in self.manifest.table_schema(table).names:
            do = "give one level, or rewrite the data set with: image-longitudinal convert OLD NEW"
            raise StorageError("this table of layout version 1 does not say which level a row is of", got=table, do=do)
        return self._files(table, self.manifest.levels if every else (level,), parts)

    def subject_rows(self, table: str, level: float | None, subject_id: int) -> pa.Table:
        """The rows of one subject. IndexError for an id outside the data set."""
        index, split = subject_id // self.plan.shard_size, self.plan.split_of(subject_id)
        part = next(part for part in self.plan.shard(index).splits if part.split == split)
        path, schema = self._path(table, level, index, split), self.manifest.table_schema(table)
        rows, width = read_table(self.root, path, schema.names), self.manifest.rows_of_a_subject(table)
        _check_columns(self.root.join(path), rows.schema, schema)
        _check_rows(self.root.join(path), rows.num_rows, width, part)
        # Not by a filter, which would trust the statistics in the file: no checksum covers them.
        found = rows.slice(width * (subject_id - part.start), width).cast(schema)
        if set(found["id"].to_pylist()) != {subject_id}:
            raise _other_subjects(self.root.join(path), f"subject {subject_id}", found["id"].to_pylist())
        return found

    def columns(
        self, table: str, level: float | None, start: int, stop: int, names: Sequence[str], rows: int = 1
    ) -> NDArray[np.float64]:
        """Number columns of subjects ``start <= id < stop``, null as NaN.

        Args:
            table, level: which table.
            start, stop: range of ids; IndexError unless all of them are in the data set.
            names: of the columns.
            rows: of each subject.

        Returns:
            Shape (rows · (stop - start), len(names)).
        """
        if not 0 <= start <= stop <= self.plan.n_subjects:
            raise IndexError(f"subjects {start} to {stop} of {self.plan.n_subjects}")
        out, filled, size = np.empty(((stop - start) * rows, len(names))), 0, self.plan.shard_size
        for index in range(start // size, -(-stop // size)):
            for part in self.plan.shard(index).splits:
                low, high = max(part.start, start), min(part.stop, stop)
                if low >= high:
                    continue
                path = self._path(table, level, index, part.split)
                values = self._read_columns(table, path, names)
                _check_rows(self.root.join(path), len(values), rows, part)
                target = slice((low - start) * rows, (high - start) * rows)
                out[target] = values[(low - part.start) * rows : (high - part.start) * rows]
                filled += high - low
        if filled < stop - start:
            raise IndexError(f"subjects {start} to {stop}: {stop - start - filled} of them are not in this part")
        return out

    def _read_columns(self, table: str, path: str, names: Sequence[str]) -> NDArray[np.float64]:
        """Columns of one file, shape (rows, columns); on one thread, because callers read with many workers."""
        read, schema = read_table(self.root, path, names), self.manifest.table_schema(table)
        _check_columns(self.root.join(path), read.schema, pa.schema([schema.field(name) for name in names]))
        return np.stack([read[name].to_numpy().astype(np.float64, copy=False) for name in names], axis=1)

    def _path(self, table: str, level: float | None, shard: int, split: str) -> str:
        check_is_one_of("table", table, self.manifest.tables)
        if not layout.has_levels(table):
            return self.manifest.table_path(table, shard, split)
        check_is_one_of("association level", level, self.manifest.levels)
        return self.manifest.table_path(table, shard, split, level)

    def _files(
        self, table: str, levels: Sequence[float | None], parts: Sequence[tuple[int, SplitRange]]
    ) -> pads.Dataset:
        """The files of some parts of shards, each with the shard's index, as one dataset; their footers are checked."""
        import pyarrow.dataset as pads  # half a second where pandas is installed, which it imports

        filesystem, prefix = self.root.filesystem
        # Decoding "split" as the dictionary it is stored as, then casting, halves its cost, the highest of all columns;
        # reading columns ahead is faster if each read is a request
        file_format = pads.ParquetFileFormat(
            dictionary_columns=["split"], pre_buffer=filesystem is not None, page_checksum_verification=True
        )
        schema = self.manifest.table_schema(table)
        paths = [self._path(table, level, index, part.split) for level in levels for index, part in parts]

        def check(path: str, part: SplitRange, fragment: pads.ParquetFileFragment) -> None:
            where = self.root.join(path)
            with table_errors("cannot open a table", where):
                _check_columns(where, fragment.physical_schema, schema)
                _check_rows(where, fragment.metadata.num_rows, self.manifest.rows_of_a_subject(table), part)

        with table_errors("cannot open a table", self.root.join(table)):
            addresses = [f"{prefix}/{path}" for path in paths]
            found = pads.dataset(addresses, schema=schema, format=file_format, filesystem=filesystem)
        with ThreadPoolExecutor(FOOTERS_AT_A_TIME) as pool:  # the footers read here are kept for the scan
            list(pool.map(check, paths, [part for _, part in parts] * len(levels), found.get_fragments()))
        return found


def _check_rows(where: str, found: int, width: int, part: SplitRange) -> None:
    """DamagedError unless a file has ``width`` rows of each subject of a part of a shard."""
    expected = width * (part.stop - part.start)
    if found != expected:
        raise _other_subjects(where, f"{expected} rows", found)


def _other_subjects(where: str, expected: str, got: object) -> DamagedError:
    problem = "a table holds other subjects than its data set"
    return DamagedError(problem, where=where, expected=expected, got=got, do="verify the data set")


@contextlib.contextmanager
def table_errors(what: str, where: str) -> Iterator[None]:
    """Turn the errors of Parquet readers, such as a wrong checksum, into a StorageError that says where."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: names that are no text
        raise storage_error(what, where, error) from error


def _check_columns(where: str, found: pa.Schema, expected: pa.Schema) -> None:
    """DamagedError unless a file has all ``expected`` columns in their types: Arrow fills missing ones with nulls."""
    types = {field.name: field.type for field in found}
    for field in expected:
        kind = types.get(field.name)
        if isinstance(kind, pa.DictionaryType):  # how the column is decoded
            kind = kind.value_type
        if kind != field.type:
            got = "no such column" if kind is None else str(kind)
            raise DamagedError(
                "a table has other columns than its data set", where=where, expected=f"{field.name}: {field.type}",
                got=got, do="verify the data set",
            )  # fmt: skip


def read_table(root: Root, path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """One Parquet file in memory, its page checksums verified, and the sizes of its pages before they are decoded.

    Raises:
        StorageError: the file is missing, damaged, not Parquet, or would take more memory than a table may.
    """
    data = root.read_bytes(path)
    with table_errors("cannot read a table", root.join(path)):
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        check_pages(memoryview(data), file.metadata, columns)
        return file.read(columns=None if columns is None else list(columns), use_threads=False)


def chosen_splits(manifest: RootManifest, split: str | None) -> tuple[str, ...]:
    """One split of a data set, or all (None); StorageError if it has no such split."""
    if split is None:
        return manifest.present_splits
    check_is_one_of("split", split, manifest.present_splits)
    return (split,)


def check_is_one_of(what: str, value: object, known: Sequence[object], shown: str = "") -> None:
    """StorageError unless a data set has this table, split, level or shard; ``shown`` lists those it has."""
    if value not in known:
        expected = f"one of {shown or ', '.join(map(str, known))}"
        raise StorageError(f"no such {what} in this data set", expected=expected, got=value)
