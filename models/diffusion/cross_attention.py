"""Cross-attention on one token (or on identical ones), collapsed to a constant per image and layer.

Attention over identical tokens gives every query the same value whatever its weights: to_out(to_v(token)). It depends
neither on pixel nor on timestep nor on anything the network computes. So it is computed once per image, and queries,
keys and weights are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from image_longitudinal.core.errors import ModelError

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import Attention


@dataclass(frozen=True)
class ConstantAttention:
    """Attention processor whose "tokens" are the constants of all layers; returns those of this layer."""

    start: int
    stop: int

    def __call__(self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: object) -> Tensor:
        """(B, pixels, C) and constants (B, 1, all C) → (B, 1, C), which broadcasts over the pixels when added."""
        return encoder_hidden_states[..., self.start : self.stop]


class CrossAttentionConstants(nn.Module):
    """Tokens (B, 1, width) → the outputs of every cross-attention layer, side by side: (B, 1, sum of C)."""

    def __init__(self, layers: list[tuple[nn.Module, nn.Module]]) -> None:
        super().__init__()
        self.values = nn.ModuleList(value for value, _ in layers)
        self.outputs = nn.ModuleList(output for _, output in layers)

    def forward(self, token: Tensor) -> Tensor:
        """See the class."""
        pairs = zip(self.values, self.outputs, strict=True)
        return torch.cat([output(value(token)) for value, output in pairs], dim=-1)


def collapse_cross_attention(unet: UNet2DConditionModel) -> CrossAttentionConstants:
    """Change ``unet`` in place to take constants instead of its token; returns the module that computes them.

    Call the UNet with ``encoder_hidden_states=constants(token)``. Its keys and queries are dropped: it can sample, but
    can no longer be trained or saved.

    Raises:
        ModelError: a cross-attention layer does more than plain attention (a norm, a residual, a group).
    """
    from diffusers.models.attention_processor import Attention  # here: diffusers takes seconds to import

    layers: list[tuple[nn.Module, nn.Module]] = []
    start = 0
    for name, block in unet.named_modules():
        attention = getattr(block, "attn2", None)
        if not isinstance(attention, Attention):
            continue
        plain = attention.spatial_norm is None and attention.group_norm is None and not attention.residual_connection
        if not plain or attention.rescale_output_factor != 1 or attention.norm_cross is not None:
            raise ModelError("this UNet's cross-attention is not plain attention", where=f"{name}.attn2")
        output = attention.to_out[0]
        stop = start + output.out_features
        layers.append((attention.to_v, output))
        attention.set_processor(ConstantAttention(start, stop))
        attention.to_q = attention.to_k = attention.to_v = nn.Identity()
        attention.to_out = nn.ModuleList()
        block.norm2 = nn.Identity()  # normalises queries, which are dropped
        start = stop
    if not layers:
        raise ModelError("this UNet has no cross-attention to collapse")
    return CrossAttentionConstants(layers)
