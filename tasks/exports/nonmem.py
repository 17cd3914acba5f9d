"""NM-TRAN: for each level and split the table of outcomes, and a control stream that fits it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from image_longitudinal.core.errors import naming_missing_extra
from image_longitudinal.storage.dataset.layout import level_name
from image_longitudinal.storage.io.root import FileRecord, Root
from image_longitudinal.tasks.exports.export import Export, Home, Piece
from image_longitudinal.tasks.population.export import export_nmtran, nmtran_columns


def _pieces(export: Export) -> Iterator[Piece]:
    for level in export.levels:
        for split in export.splits:

            def write(root: Root, level: float = level, split: str = split) -> Iterable[FileRecord]:
                with tempfile.TemporaryDirectory() as folder:
                    rows = export_nmtran(export.dataset, Path(folder, "table.csv"), level=level, split=split)
                    yield root.put_file(Path(folder, "table.csv"), f"{_name(level, split)}.csv", rows=rows)

            yield Piece(_name(level, split).replace("/", "-"), export.dataset.manifest.splits[split], write)


def _close(export: Export, root: Root) -> Iterator[FileRecord]:
    with naming_missing_extra():
        from image_longitudinal.models.nlme.data.control_stream import control_stream
        from image_longitudinal.models.nlme.library import get_model
    manifest = export.dataset.manifest
    model = get_model(manifest.config["outcomes"]["model"])
    for level in export.levels:
        for split in export.splits:
            title = f"{manifest.name}, association {level_name(level)}, {split}"
            text = control_stream(model, nmtran_columns(export.dataset), f"{split}.csv", title)
            yield root.write_bytes(f"{_name(level, split)}.ctl", text.encode())


def _name(level: float, split: str) -> str:
    return f"rho2-{level_name(level)}/{split}"


HOME = Home("nmtran", _pieces, _close, "run it in the folder of a level: nmfe75 train.ctl train.lst")
