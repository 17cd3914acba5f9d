"""Constants in place of cross-attention: diffusers' own UNet on 77 identical tokens gives the same prediction."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel

from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.diffusion.cross_attention import collapse_cross_attention


def make_unet() -> UNet2DConditionModel:
    torch.manual_seed(3)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32, 32),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=24,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )
    return unet.eval()


@torch.no_grad()
def test_the_collapsed_unet_predicts_what_diffusers_does_from_77_tokens() -> None:
    """1e-5 is float32 rounding; the token matters far more than that."""
    unet = make_unet()
    collapsed = copy.deepcopy(unet)
    constants = collapse_cross_attention(collapsed)
    x, t, token = torch.randn(3, 4, 8, 8), torch.tensor([3, 500, 999]), torch.randn(3, 1, 24)
    expected = unet(x, t, token.repeat(1, 77, 1)).sample
    computed = constants(token)
    assert computed.shape == (3, 1, 16 * 3 + 32 * 3 + 32)  # two layers down, the middle, four up
    torch.testing.assert_close(collapsed(x, t, computed).sample, expected, atol=1e-5, rtol=0)
    assert (unet(x, t, token + 1).sample - expected).abs().max() > 1e-2


def test_keys_and_queries_are_gone() -> None:
    unet = make_unet()
    before = sum(p.numel() for p in unet.parameters())
    constants = collapse_cross_attention(unet)
    kept = sum(p.numel() for p in unet.parameters()) + sum(p.numel() for p in constants.parameters())
    assert kept < before
    assert not any("attn2" in name for name, _ in unet.named_parameters())


def test_a_network_without_cross_attention_is_refused() -> None:
    plain = UNet2DModel(
        sample_size=8, block_out_channels=(16,), norm_num_groups=8, layers_per_block=1,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    with pytest.raises(ModelError, match="no cross-attention"):
        collapse_cross_attention(plain)
