"""Batches that are started without waiting and collected later."""

import numpy as np
import torch

from image_longitudinal.models.imaging.in_flight import start_batch


def test_a_batch_on_a_cpu_gives_images_and_the_time_they_took() -> None:
    def render(z: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
        return (seeds[:, None, None] + z[:, :1, None]).to(torch.uint8).expand(-1, 2, 2)

    batch = start_batch(render, torch.device("cpu"), np.ones((3, 2), np.float32), np.arange(3))
    np.testing.assert_array_equal(batch.wait()[:, 0, 0], [1, 2, 3])
    assert batch.seconds > 0
