"""A cleaned scan, as it travels from preparation to storage: its pixels, and what was mended on the way."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class CleanScan:
    """A cleaned frame, uint8 (H, W), and what was done to the scan because it was odd, one sentence each."""

    frame: NDArray[np.uint8]
    cures: tuple[str, ...] = ()
