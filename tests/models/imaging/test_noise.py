"""Noise of torch is that of numpy: the same uniforms, the same normals."""

import numpy as np
import pytest
import torch

from image_longitudinal.core.random import seeded_normals, stream_key, uniforms
from image_longitudinal.models.imaging.noise import seeded_uniforms, subject_noise

SEEDS = np.array([0, 1, 17, 2**31, 2**32 + 5, 2**62 + 12345, 2**63 - 1])


@pytest.mark.parametrize("n", [1, 2, 33, 1000])
def test_uniforms_are_numpys_bit_for_bit(n: int) -> None:
    rows = np.full(len(SEEDS), stream_key(0, "image-noise"), np.uint64)
    sampled = seeded_uniforms(torch.from_numpy(SEEDS), "image-noise", n).numpy()
    np.testing.assert_array_equal(sampled, uniforms(SEEDS.astype(np.uint64), rows, n))


def test_normals_are_numpys_to_the_last_digit() -> None:
    """On the CPU they are the same bits; on another device the quantile function may round the last one otherwise."""
    seeds = np.arange(500)
    sampled = subject_noise(torch.from_numpy(seeds), "stage", (4, 5, 5)).numpy()
    assert sampled.shape == (500, 4, 5, 5)
    np.testing.assert_array_equal(sampled.reshape(500, -1), seeded_normals(seeds, "stage", 100).astype(np.float32))


def test_a_row_depends_on_its_seed_and_the_stage_alone() -> None:
    seeds = torch.from_numpy(SEEDS)
    whole = subject_noise(seeds, "stage", (3, 7))
    for row in range(len(SEEDS)):
        assert torch.equal(subject_noise(seeds[row : row + 1], "stage", (3, 7))[0], whole[row])
    assert torch.equal(subject_noise(seeds.flip(0), "stage", (3, 7)), whole.flip(0))
    assert not torch.isclose(subject_noise(seeds, "other stage", (3, 7)), whole).any()
