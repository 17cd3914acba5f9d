"""A .npy file that is appended to when the number of rows is known only at the end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import StorageError


class GrowingNpy:
    """uint8 rows of one shape, written one after the other; numpy leaves room in the header for the final count."""

    def __init__(self, file: IO[bytes], shape: tuple[int, ...]) -> None:
        self.file, self.shape, self.count = file, shape, 0
        self._header()
        self._start = file.tell()

    def _header(self) -> None:
        layout = {"descr": "|u1", "fortran_order": False, "shape": (self.count, *self.shape)}
        np.lib.format.write_array_header_1_0(self.file, layout)

    def append(self, row: NDArray[np.uint8]) -> None:
        """Write one row; StorageError when it has another shape or type."""
        if row.shape != self.shape or row.dtype != np.uint8:
            got = f"{row.dtype} {row.shape}"
            raise StorageError("a row to be written has the wrong form", expected=f"uint8 {self.shape}", got=got)
        self.file.write(np.ascontiguousarray(row).data)
        self.count += 1

    def finish(self) -> None:
        """Write the count into the header and everything to disk."""
        self.file.seek(0)
        self._header()
        assert self.file.tell() == self._start, "the final header must fit where the first one was"
        to_disk(self.file)


@contextlib.contextmanager
def growing_npy(path: Path, shape: tuple[int, ...]) -> Iterator[GrowingNpy]:
    """A :class:`GrowingNpy` at ``path``, finished on leaving the block without an error."""
    with open(path, "wb") as file:
        growing = GrowingNpy(file, shape)
        yield growing
        growing.finish()


def to_disk(file: IO[Any]) -> None:
    """Make sure that a power cut does not lose what was written."""
    file.flush()
    os.fsync(file.fileno())
