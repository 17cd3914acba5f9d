"""Everything about one subject."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from image_longitudinal.storage.dataset.layout import eta_columns


@dataclass(frozen=True, eq=False, repr=False)
class Subject:
    """Everything about one subject.

    Attributes:
        id: subject identity.
        split: train, validation or test.
        seed: the subject's own seed.
        image: uint8, shape (H, W).
        latent: float32, shape (D,).
        linked_eta: float64, shape (k,): random effects linked to the image, before noise of a level is mixed in. No
            outcome was made from them, except at level 1; :attr:`used_eta` are those that outcomes were made from.
        random_effects: by association level, one row: the random effects used and the individual parameters.
        observations: by association level, the subject's rows, sorted by time.

    Example:
        >>> data[17].observations[0.5].num_rows  # a dose and 21 visits
        22
    """

    id: int
    split: str
    seed: int
    image: NDArray[np.uint8]
    latent: NDArray[np.float32]
    linked_eta: NDArray[np.float64]
    random_effects: Mapping[float, pa.Table]
    observations: Mapping[float, pa.Table]

    @property
    def used_eta(self) -> dict[float, NDArray[np.float64]]:
        """By association level, the random effects that its outcomes were made from: float64, shape (k,)."""
        names = eta_columns(len(self.linked_eta))
        rows = self.random_effects.items()
        return {level: np.array([row[name][0].as_py() for name in names]) for level, row in rows}

    def __repr__(self) -> str:
        height, width = self.image.shape
        linked = ", ".join(f"{value:.3f}" for value in self.linked_eta)
        levels = ", ".join(map(str, self.observations))
        seen = f"image {height}x{width}, linked_eta [{linked}], outcomes at {levels}"
        return f"Subject({self.id}, {self.split}, {seen})"

    def _repr_html_(self) -> str:
        from image_longitudinal.storage.dataset.notebook import subject_html

        return subject_html(self)
