"""Decoding one compressed chunk that somebody else may have written: its header is checked before it is decoded.

A codec allocates what the header of its input claims, up to 4 GiB, and trusts block sizes. Here the claim must be the
size of the declared chunk, and the result is decoded into memory of exactly that size.
"""

import struct
from typing import Any, Final

import numpy as np
from numcodecs import blosc, zstd
from numpy.typing import NDArray

ZSTD: Final = b"\x28\xb5\x2f\xfd"  # first bytes of a zstd frame: older data sets have such chunks
_BLOSC_HEADER = struct.Struct("<BBBBIII")  # version, codec's version, flags, typesize, bytes, of a block, compressed
_BLOSC_CODECS = (1, 4)  # LZ4, which is written, and zstd


def most_compressed(size: int) -> int:
    """The most bytes that a chunk of ``size`` bytes takes compressed, with its checksum: of blosc, or of zstd."""
    return size + size // 128 + 1024


def decode_blosc(packed: bytes, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """The chunk in a blosc buffer. ValueError or RuntimeError unless it is one of this shape."""
    out = np.empty(shape, dtype)
    if len(packed) < _BLOSC_HEADER.size:
        raise ValueError("it is shorter than its header")
    version, _, flags, typesize, size, block, compressed = _BLOSC_HEADER.unpack_from(packed)
    claims = {
        "blosc format": (version, version == 2),
        "codec": (flags >> 5, flags >> 5 in _BLOSC_CODECS),
        "size of a number": (typesize, typesize == out.itemsize),
        "decoded size": (size, size == out.nbytes),
        "block size": (block, 0 < block <= max(size, 1)),
        "compressed size": (compressed, compressed == len(packed)),
    }
    for name, (claim, possible) in claims.items():
        if not possible:
            raise ValueError(f"its header claims an impossible {name}, {claim}")
    blosc.decompress(packed, out)
    return out


def decode_zstd(packed: bytes, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """The chunk in one zstd frame. ValueError or RuntimeError unless it is one of this shape."""
    out = np.empty(shape, dtype)
    if (size := _zstd_content_size(packed)) != out.nbytes:
        raise ValueError(f"its header claims an impossible decoded size, {size}")
    zstd.decompress(packed, out)
    return out


def _zstd_content_size(frame: bytes) -> int | None:
    """The decoded size in a zstd frame's header, None if it has none (RFC 8878, 3.1.1.1)."""
    descriptor = frame[4] if len(frame) > 4 else 0
    single_segment, dictionary = descriptor >> 5 & 1, (0, 1, 2, 4)[descriptor & 3]
    start, width = 5 + (not single_segment) + dictionary, (single_segment, 2, 4, 8)[descriptor >> 6]
    if not width or len(frame) < start + width:
        return None
    return int.from_bytes(frame[start : start + width], "little") + (256 if width == 2 else 0)
