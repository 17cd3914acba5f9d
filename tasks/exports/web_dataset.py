"""WebDataset: tar files of samples, ``000000017.png`` beside ``000000017.json``, for streaming in sequence."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.png import encode_png
from image_longitudinal.storage.dataset.layout import level_name
from image_longitudinal.storage.io.root import FileRecord, Root
from image_longitudinal.tasks.exports.export import Export, Home, Part, by_part
from image_longitudinal.tasks.exports.rows import read_rows

BLOCK = tarfile.BLOCKSIZE
AT_ONCE = 256  # images in memory


def _write_part(export: Export, part: Part, root: Root) -> Iterator[FileRecord]:
    path = f"{part.split}-{part.shard:05d}.tar"
    yield root.write(path, _archive(export, part), rows=part.stop - part.start)


def _archive(export: Export, part: Part) -> Iterator[bytes]:
    """A tar archive, the same bytes each time: no dates, no owners."""
    rows = read_rows(export, part)
    for start in range(0, len(rows.ids), AT_ONCE):
        images = export.dataset.images[part.start + start : min(part.start + start + AT_ONCE, part.stop)]
        for i, image in enumerate(images, start):
            levels = {
                level_name(own.level): {
                    "used_eta": own.used_eta[i].tolist(), "time": own.times[i].tolist(), "dv": _numbers(own.outcomes[i])
                }
                for own in rows.levels
            }  # fmt: skip
            design = {name: values[i].item() for name, values in rows.design.items()}
            sample = {"id": int(rows.ids[i]), "split": part.split, "linked_eta": rows.linked_eta[i].tolist(), **design}
            name = f"{rows.ids[i]:09d}"
            yield from _member(f"{name}.png", encode_png(image))
            yield from _member(f"{name}.json", json.dumps(sample | {"levels": levels}).encode())
    yield bytes(2 * BLOCK)


def _numbers(values: NDArray[np.float64]) -> list[Any]:
    """Outcomes for JSON, which has no NaN: null at a missed visit."""
    return [None if np.isnan(value) else value for value in values.tolist()]


def _member(name: str, data: bytes) -> Iterator[bytes]:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    yield header.tobuf(tarfile.USTAR_FORMAT)
    yield data
    yield bytes(-len(data) % BLOCK)


def _nothing_more(export: Export, root: Root) -> Iterator[FileRecord]:
    yield from ()


HOME = Home(
    "webdataset", by_part(_write_part), _nothing_more,
    'webdataset.WebDataset("{}/SPLIT-00000.tar", shardshuffle=False).decode("l8")',
)  # fmt: skip
