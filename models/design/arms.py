"""Randomised assignment to arms: independent draws, or blocks of fixed composition, over all subjects or within sites.

The arm of a subject is a function of seed, design and id: blocks are cut by id. Blocks within sites are cut in windows
of :data:`WINDOW` consecutive ids, so that a subject depends on the sites of its own window alone; the last block of a
site in a window is part of a block.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.random import stream_key, uniforms

IntArray = NDArray[np.int64]
WINDOW = 4096  # ids


def draw_arms(cumulative: NDArray[np.float64], seed: int, ids: ArrayLike) -> IntArray:
    """Independent draws: arm (n,) of subjects whose arms have ``cumulative`` probabilities (n, A) or (A,)."""
    drawn = uniforms(stream_key(seed, "study", "arm"), ids, 1)
    return (drawn >= np.atleast_2d(cumulative)[:, :-1]).sum(1).astype(np.int64)


def draw_blocks(shares: Sequence[float], size: int, seed: int, ids: ArrayLike) -> IntArray:
    """Blocks of ``size`` consecutive ids: arm (n,)."""
    numbers = np.asarray(ids, np.int64)
    blocks, row = np.unique(numbers // size, return_inverse=True)
    return _permuted(shares, size, stream_key(seed, "study", "block"), blocks)[row, numbers % size]


def draw_blocks_within(
    shares: Sequence[float], size: int, seed: int, ids: ArrayLike, sites: Callable[[IntArray], IntArray]
) -> IntArray:
    """Blocks of ``size`` subjects of one site: arm (n,). ``sites``: ids → site (n,)."""
    numbers = np.asarray(ids, np.int64)
    out = np.empty(len(numbers), np.int64)
    for window in np.unique(numbers // WINDOW).tolist():
        members = np.arange(window * WINDOW, (window + 1) * WINDOW)
        site, arms = sites(members), np.empty(len(members), np.int64)
        for one in np.unique(site).tolist():
            place = np.flatnonzero(site == one)
            count = -(-len(place) // size)
            key = stream_key(seed, "study", "block of site", int(one))
            arms[place] = _permuted(shares, size, key, window * WINDOW + np.arange(count)).reshape(-1)[: len(place)]
        here = np.flatnonzero(numbers // WINDOW == window)
        out[here] = arms[numbers[here] - window * WINDOW]
    return out


def _permuted(shares: Sequence[float], size: int, key: int, blocks: IntArray) -> IntArray:
    """The arms of whole blocks in random order, (blocks, size)."""
    composition = np.repeat(np.arange(len(shares)), [round(share * size) for share in shares])
    return composition[np.argsort(uniforms(key, blocks, size), axis=1, kind="stable")]
