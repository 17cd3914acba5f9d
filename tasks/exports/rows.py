"""The numbers of some subjects, beside their images: the same for every home that has one entry for each subject."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.storage.dataset.layout import level_name
from image_longitudinal.tasks.exports.export import Export, Part


@dataclass(frozen=True)
class LevelRows:
    """One association level: random effects used (n, k), and times and outcomes (n, T), NaN at a missed visit."""

    level: float
    used_eta: NDArray[np.float64]
    times: NDArray[np.float64]
    outcomes: NDArray[np.float64]

    @property
    def name(self) -> str:
        """What columns of this level end in, as folders of a data set are called: rho2-0.5."""
        return f"rho2-{level_name(self.level)}"


@dataclass(frozen=True)
class PartRows:
    """Subjects of one part: ids (n,), columns of a study design (n,) by name, random effects linked to the image."""

    ids: NDArray[np.int64]
    design: dict[str, NDArray[Any]]
    linked_eta: NDArray[np.float64]
    levels: tuple[LevelRows, ...]


def read_rows(export: Export, part: Part) -> PartRows:
    """Everything but the images of the subjects of a part; nothing of ``truth/``."""
    dataset, (start, stop) = export.dataset, (part.start, part.stop)
    fields = dataset.manifest.study_columns.of_subjects()
    values = dataset.columns("subjects", None, start, stop, [field.name for field in fields]) if fields else None
    design = {
        field.name: values[:, i].astype(field.type.to_pandas_dtype())
        for i, field in enumerate(fields)
        if values is not None
    }
    width = dataset.manifest.rows_of_a_subject("observations")
    levels = []
    for level in export.levels:
        rows = dataset.columns("observations", level, start, stop, ("time", "dv", "evid"), rows=width)
        time, dv, evid = rows.reshape(stop - start, width, 3).transpose(2, 0, 1)
        seen = evid[0] == 0  # the same rows of every subject
        levels.append(LevelRows(level, dataset.used_eta(level)[start:stop], time[:, seen], dv[:, seen]))
    return PartRows(np.arange(start, stop), design, dataset.linked_eta[start:stop], tuple(levels))


def flat_columns(export: Export, part: Part) -> dict[str, NDArray[Any]]:
    """The same as columns of one number per subject, for tables of text: ``dv_rho2-0.5_t4`` is an outcome at time 4."""
    rows = read_rows(export, part)
    columns: dict[str, NDArray[Any]] = {"id": rows.ids, "split": np.full(len(rows.ids), part.split), **rows.design}
    columns |= {f"linked_eta_{k}": values for k, values in enumerate(rows.linked_eta.T, 1)}
    for own in rows.levels:
        columns |= {f"used_eta_{k}_{own.name}": values for k, values in enumerate(own.used_eta.T, 1)}
        if export.is_irregular:
            columns |= {f"time_{own.name}_visit{i}": values for i, values in enumerate(own.times.T, 1)}
        columns |= {
            f"dv_{own.name}_t{time:g}": values.astype(np.float32)
            for time, values in zip(export.dataset.times, own.outcomes.T, strict=True)
        }
    return columns


def as_text(columns: dict[str, NDArray[Any]], separator: str = ",", missing: str = "") -> str:
    """Rows of a table of text, without the line of names; a number reads back as the same number."""
    texts = [[_cell(value, missing) for value in column] for column in columns.values()]
    return "".join(separator.join(row) + "\n" for row in zip(*texts, strict=True))


def _cell(value: Any, missing: str) -> str:
    return missing if isinstance(value, np.floating) and np.isnan(value) else str(value)
