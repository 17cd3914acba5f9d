"""Batches and generators are pure functions of seed, stage and step."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from image_longitudinal.models.training.step_random import batch_indices, step_generator


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 2**63 - 1), st.integers(1, 4))
def test_batches_cover_each_epoch_exactly_once(n: int, batch: int, seed: int, epochs: int) -> None:
    steps = -(-n * epochs // batch)
    batches = [batch_indices(n, batch, seed, "stage", step) for step in range(steps)]
    assert all(len(indices) == batch and indices.dtype == np.int64 for indices in batches)
    seen = np.concatenate(batches)[: n * epochs].reshape(epochs, n)
    assert all(sorted(epoch) == list(range(n)) for epoch in seen)


def test_orders_and_generators_depend_on_seed_stage_and_step() -> None:
    names: list[tuple[int, str, int]] = [(1, "vae", 0), (1, "vae", 1), (2, "vae", 0), (1, "diffusion", 0)]
    orders = {tuple(batch_indices(1000, 1000, *name).tolist()) for name in names * 2}  # equal names give equal orders
    numbers = {float(torch.rand(1, generator=step_generator(*name))) for name in names * 2}
    assert len(orders) == len(numbers) == len(names)
