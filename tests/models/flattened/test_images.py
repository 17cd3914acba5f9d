"""Flattened images that are kept: as written, or made again."""

from pathlib import Path

import numpy as np
import pytest

from image_longitudinal.models.flattened.images import flatten_images
from tests.models.conftest import phantoms


@pytest.mark.parametrize("name", ["p.flat.npy", "p.curves.npy", "p.flattened.json"])
def test_damaged_files_are_made_again(tmp_path: Path, name: str) -> None:
    images, path = phantoms(2, 512), tmp_path / "p"
    first = flatten_images(images, 32, path)
    flat, curves, damaged = np.array(first.flat), np.array(first.curves), tmp_path / name
    good = damaged.read_bytes()
    damaged.write_bytes(good[:-9] + bytes([good[-9] ^ 4]) + good[-8:])
    again = flatten_images(images, 32, path)
    assert np.array_equal(again.flat, flat)
    assert np.array_equal(again.curves, curves)
    assert damaged.read_bytes() == good
