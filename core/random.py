"""Counter-based random streams: every number is a pure function of (seed, stage, subject id, position).

No generator is ever carried from one batch, shard or worker to the next, so any split of the work draws the same
numbers. The generator is Philox4x32-10 (Salmon et al. 2011, *Parallel random numbers: as easy as 1, 2, 3*), which
needs only 32-bit multiplications and so can be repeated bit for bit on any device.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = 0xFFFFFFFF


def stream_key(seed: int, *stage: str | int | float) -> int:
    """64-bit key of the stream that belongs to ``seed`` and the named stage; distinct names give unrelated streams."""
    text = "\x1f".join([str(int(seed)), *map(repr, stage)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def uniforms(key: int | ArrayLike, ids: ArrayLike, n: int) -> NDArray[np.float64]:
    """Uniform draws on the open interval (0, 1), 52 bits each.

    Args:
        key: a stream key, or one per row, uint64.
        ids: row identities (subject ids), shape (rows,), 0 ≤ id < 2⁶⁴; a row's numbers depend on its id alone.
        n: how many numbers per row.

    Returns:
        float64, shape (rows, n). Row r with n numbers starts with the same numbers as with fewer.
    """
    ids = np.atleast_1d(np.asarray(ids)).astype(np.uint64)
    keys = np.broadcast_to(np.asarray(key, dtype=np.uint64), ids.shape)
    blocks = np.arange((n + 1) // 2, dtype=np.uint64)
    words = philox4x32(
        (blocks[None, :], np.uint64(0), (ids & _LOW)[:, None], (ids >> 32)[:, None]),
        ((keys & _LOW)[:, None], (keys >> 32)[:, None]),
    )
    pairs = np.stack([_to_unit(words[0], words[1]), _to_unit(words[2], words[3])], axis=-1)
    return pairs.reshape(len(ids), 2 * len(blocks))[:, :n]


def normals(key: int | ArrayLike, ids: ArrayLike, n: int) -> NDArray[np.float64]:
    """Standard normal draws, float64, shape (rows, n), by inversion of :func:`uniforms` (same arguments)."""
    from scipy.special import ndtri  # here: reading a data set needs no scipy

    return np.asarray(ndtri(uniforms(key, ids, n)))


def subject_seeds(seed: int, ids: ArrayLike) -> NDArray[np.int64]:
    """One non-negative 63-bit seed per subject id (rows,): int64 (rows,), for an image model beside the latent."""
    ids = np.atleast_1d(np.asarray(ids)).astype(np.uint64)
    key = np.uint64(stream_key(seed, "subject"))
    words = philox4x32((ids & _LOW, ids >> 32, np.uint64(0), np.uint64(0)), (key & _LOW, key >> 32))
    return ((words[0] << 32 | words[1]) >> 1).astype(np.int64)


def seeded_normals(seeds: ArrayLike, stage: str, n: int) -> NDArray[np.float64]:
    """Standard normal draws that depend on each row's own seed and the stage: float64, shape (rows, n)."""
    return normals(np.asarray(seeds).astype(np.uint64), np.full(np.shape(seeds), stream_key(0, stage), np.uint64), n)


def philox4x32(counter: tuple[Any, ...], key: tuple[Any, ...]) -> tuple[Any, ...]:
    """Ten Philox rounds on 32-bit words (broadcast together), held in uint64 arrays or in int64 tensors of torch.

    A signed product wraps around to the same 64 bits, and masking its shifted upper half gives the unsigned one.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = (p1 >> 32 & _LOW) ^ c1 ^ k0, p1 & _LOW, (p0 >> 32 & _LOW) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return c0, c1, c2, c3


def _to_unit(high: NDArray[np.uint64], low: NDArray[np.uint64]) -> NDArray[np.float64]:
    """52 bits from two 32-bit words, centred in their cell: with a 53rd the largest would round to 1."""
    bits = (high >> np.uint64(6)).astype(np.float64) * 67108864.0 + (low >> np.uint64(6)).astype(np.float64)
    return (bits + 0.5) / 4503599627370496.0
