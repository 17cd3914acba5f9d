"""The network of our own diffusion models: a UNet told z by adaptive group normalisation (Dhariwal & Nichol 2021)."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn


def adagn_unet(
    *, inputs: int, outputs: int, side: int, channels: tuple[int, ...], latent_dim: int
) -> UNet2DConditionModel:
    """A UNet over (inputs, side, side), every block scaled and shifted by time and z; its last layer starts at 0.

    Args:
        inputs, outputs: channels of what it sees and of what it predicts.
        side: height and width of its grid.
        channels: counts of the levels, multiples of 16.
        latent_dim: length of z, given as ``class_labels``.
    """
    unet = UNet2DConditionModel(
        sample_size=side,
        in_channels=inputs,
        out_channels=outputs,
        block_out_channels=channels,
        down_block_types=("DownBlock2D",) * len(channels),
        up_block_types=("UpBlock2D",) * len(channels),
        mid_block_type="UNetMidBlock2D",
        layers_per_block=1,
        norm_num_groups=16,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=latent_dim,
        resnet_time_scale_shift="scale_shift",
        attention_head_dim=32,
    )
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(unet.conv_out.bias)
    return unet


@torch.no_grad()
def rotate_adagn(unet: nn.Module, axes: Tensor) -> None:
    """Let the UNet take the columns of ``axes`` (D, D), orthogonal, as the entries of z, by its one linear layer."""
    weight = unet.get_parameter("class_embedding.linear_1.weight")
    weight.copy_(weight @ axes.to(weight))
