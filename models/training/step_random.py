"""Randomness of training as a pure function of (seed, stage, step), so that a resumed run repeats every number."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from image_longitudinal.core.random import stream_key


def step_generator(seed: int, stage: str, step: int) -> torch.Generator:
    """The generator of one step of one stage; on the CPU, so that its numbers do not depend on the device."""
    return torch.Generator().manual_seed(stream_key(seed, stage, step) >> 1)


def batch_indices(n: int, batch: int, seed: int, stage: str, step: int) -> NDArray[np.int64]:
    """Which of ``n`` examples are in the batch of step ``step``: shuffled epochs, joined end to end, cut into batches.

    Returns:
        int64, shape (batch,). Every example appears once per epoch of n.
    """
    start = step * batch
    epochs = range(start // n, (start + batch - 1) // n + 1)
    orders = [torch.randperm(n, generator=step_generator(seed, f"{stage}-epoch", epoch)).numpy() for epoch in epochs]
    first = start - epochs[0] * n
    return np.concatenate(orders)[first : first + batch]


@contextmanager
def seeded_weights(seed: int, stream: str) -> Iterator[None]:
    """In the body, torch's initial weights depend on seed and stream alone; the caller's random state is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_key(seed, stream) >> 1)
        yield
