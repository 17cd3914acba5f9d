"""What all diffusion models share: preparation for sampling, and autoencoders at work in parts."""

import torch
from torch import nn

from image_longitudinal.models.diffusion.diffusion_model import CHUNK_PIXELS, in_chunks, prepare_network


@torch.no_grad()
def test_a_compiled_network_gives_what_it_gave() -> None:
    """1e-6 is float32 rounding. The compiler knows the option that keeps it from timing reductions on the device."""
    network = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU()).eval()
    x = torch.randn(3, 2, 8, 8)
    before = network(x)
    prepare_network(network, torch.float32, compiled=True)
    torch.testing.assert_close(network(x), before, atol=1e-6, rtol=0)


def test_parts_are_equal_and_as_large_as_may_be() -> None:
    sizes: list[int] = []

    def double(part: torch.Tensor) -> torch.Tensor:
        sizes.append(len(part))
        return 2 * part

    for rows, expected in ((64, [8] * 8), (12, [6, 6]), (7, [7]), (11, [1] * 11), (0, [0])):
        batch, sizes[:] = torch.arange(float(rows)), []
        assert torch.equal(in_chunks(double, batch, 512), 2 * batch)
        assert sizes == expected
    assert torch.equal(in_chunks(double, torch.ones(2), CHUNK_PIXELS), torch.full((2,), 2.0)), "one at least"
