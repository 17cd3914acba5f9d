"""Writing a .npy file row by row, when the number of rows is known only at the end."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import StorageError


class NpyWriter:
    """Appends uint8 rows of one shape; numpy reserves space in the header for the final count."""

    def __init__(self, file: IO[bytes], shape: tuple[int, ...]) -> None:
        self.file, self.shape, self.count = file, shape, 0
        self._write_header()
        self._start = file.tell()

    def _write_header(self) -> None:
        layout = {"descr": "|u1", "fortran_order": False, "shape": (self.count, *self.shape)}
        np.lib.format.write_array_header_1_0(self.file, layout)

    def append(self, row: NDArray[np.uint8]) -> None:
        """Write one row; StorageError if it has another shape or type."""
        if row.shape != self.shape or row.dtype != np.uint8:
            got = f"{row.dtype} {row.shape}"
            raise StorageError("a row has the wrong shape or type", expected=f"uint8 {self.shape}", got=got)
        self.file.write(np.ascontiguousarray(row).data)
        self.count += 1

    def finish(self) -> None:
        """Write the final count into the header and sync the file to disk."""
        self.file.seek(0)
        self._write_header()
        assert self.file.tell() == self._start, "the final header must be as long as the first"
        self.file.flush()
        os.fsync(self.file.fileno())


@contextlib.contextmanager
def npy_writer(path: Path, shape: tuple[int, ...]) -> Iterator[NpyWriter]:
    """A :class:`NpyWriter` at ``path``, finished when the body ends without an error."""
    with open(path, "wb") as file:
        writer = NpyWriter(file, shape)
        yield writer
        writer.finish()
