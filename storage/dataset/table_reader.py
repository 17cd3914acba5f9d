"""Reading the Parquet tables of a data set: lazily as a pyarrow dataset, or number columns of a range of subjects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from image_longitudinal.core.errors import StorageError
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset.manifest import RootManifest
from image_longitudinal.storage.dataset.parquet_limits import check_pages
from image_longitudinal.storage.io.root import Root, storage_error

if TYPE_CHECKING:
    import pyarrow.dataset as pads


class TableReader:
    """The tables of a data set; page checksums are verified."""

    def __init__(self, root: Root, manifest: RootManifest) -> None:
        self.root, self.manifest, self.plan = root, manifest, manifest.plan

    def scan(self, table: str, level: float | None, split: str | None) -> pads.Dataset:
        """A table as a lazy pyarrow dataset; see :meth:`storage.dataset.reader.Dataset.scan`."""
        splits = chosen_splits(self.manifest, split)
        ranges = [(part.split, shard.index) for shard in self.plan for part in shard.splits if part.split in splits]
        return self._files(table, [self._path(table, level, index, name) for name, index in ranges])

    def subject_rows(self, table: str, level: float | None, subject_id: int) -> pa.Table:
        """The rows of one subject. IndexError for an id outside the data set."""
        shard, split = subject_id // self.plan.shard_size, self.plan.split_of(subject_id)
        file = self._files(table, [self._path(table, level, shard, split)])
        return file.filter(pc.field("id") == subject_id).to_table()

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
                values = self._read_columns(path, names)
                if len(values) != rows * (part.stop - part.start):
                    problem, where = "the number of rows of a table does not match its subjects", self.root.join(path)
                    expected, do = rows * (part.stop - part.start), "verify the data set"
                    raise StorageError(problem, where=where, expected=expected, got=len(values), do=do)
                target = slice((low - start) * rows, (high - start) * rows)
                out[target] = values[(low - part.start) * rows : (high - part.start) * rows]
                filled += high - low
        if filled < stop - start:
            raise IndexError(f"subjects {start} to {stop}: {stop - start - filled} of them are not in this part")
        return out

    def _read_columns(self, path: str, names: Sequence[str]) -> NDArray[np.float64]:
        """Columns of one file, shape (rows, columns); on one thread, because callers read with many workers."""
        table = read_table(self.root, path, names)
        try:
            return np.stack([table[name].to_numpy().astype(np.float64, copy=False) for name in names], axis=1)
        except (pa.ArrowException, KeyError) as error:
            raise storage_error("cannot read a table", self.root.join(path), error) from error

    def _path(self, table: str, level: float | None, shard: int, split: str) -> str:
        check_is_one_of("table", table, layout.TABLES)
        if table == "subjects":
            return self.manifest.table_path(table, shard, split)
        check_is_one_of("association level", level, self.manifest.levels)
        return self.manifest.table_path(table, shard, split, level)

    def _files(self, table: str, paths: list[str]) -> pads.Dataset:
        import pyarrow.dataset as pads  # half a second where pandas is installed, which it imports

        filesystem, prefix = self.root.filesystem
        # Decoding "split" as the dictionary it is stored as, then casting, halves its cost, the highest of all columns;
        # reading columns ahead is faster if each read is a request
        file_format = pads.ParquetFileFormat(
            dictionary_columns=["split"], pre_buffer=filesystem is not None, page_checksum_verification=True
        )
        return pads.dataset(
            [f"{prefix}/{path}" for path in paths],
            schema=self.manifest.table_schema(table),
            format=file_format,
            filesystem=filesystem,
        )


def read_table(root: Root, path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """One Parquet file in memory, its page checksums verified, and the sizes of its pages before they are decoded.

    Raises:
        StorageError: the file is missing, damaged, not Parquet, or would take more memory than a table may.
    """
    data = root.read_bytes(path)
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        check_pages(memoryview(data), file.metadata, columns)
        return file.read(columns=None if columns is None else list(columns), use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise storage_error("cannot read a table", root.join(path), error) from error


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
