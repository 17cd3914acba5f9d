"""The original's model at tiny size: one token for 77, parts from a folder, and one clear line when it is not there."""

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel

from image_longitudinal.core.config import DiffusionConfig, VAEConfig
from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.diffusion.stable_diffusion import StableDiffusion, collapse_cross_attention
from image_longitudinal.models.diffusion.train import build_diffusion, train_diffusion
from image_longitudinal.models.imaging.assembly import assemble_diffusion, diffusion_weights
from image_longitudinal.models.registry.metadata import NetworkConfigs
from image_longitudinal.models.training.tensor_files import load_tensors, save_tensors, tensors_digest
from image_longitudinal.models.vae.network import VAE
from tests.models.conftest import draws
from tests.models.diffusion.conftest import assert_rotation_keeps_predictions, images_of


@pytest.fixture(scope="module")
def model(pretrained: Path) -> StableDiffusion:
    return StableDiffusion(str(pretrained), 5, 32).eval()


def test_the_parts_fit_together_and_the_token_is_z_and_zeros(model: StableDiffusion) -> None:
    assert (model.image_size, model.latent_dim, model.working_shape) == (32, 5, (4, 8, 8))
    assert model.schedule["beta_schedule"] == "scaled_linear"
    assert model.schedule["prediction_type"] == "epsilon"
    z = torch.randn(3, 5)
    token = model.context(z)
    assert token.shape == (3, 1, 24)
    assert torch.equal(token[:, 0, :5], z)
    assert not token[:, 0, 5:].any()


def test_one_token_is_as_good_as_77_identical_ones(model: StableDiffusion) -> None:
    """Attention spreads its weights over equal values; 1e-5 is float32 rounding."""
    noisy, z, t = torch.randn(2, 4, 8, 8), torch.randn(2, 5), torch.tensor([10, 900])
    one = model.context(z)
    with torch.no_grad():
        single = model.denoise(model.denoiser, noisy, t, z, one)
        repeated = model.denoise(model.denoiser, noisy, t, z, one.expand(-1, 77, -1).contiguous())
        other = model.denoise(model.denoiser, noisy, t, z, model.context(z + 1))
    torch.testing.assert_close(single, repeated, atol=1e-5, rtol=0)
    assert (other - single).abs().max() > 1e-3, "z must matter"


def test_images_become_scaled_latents_and_come_back_grey(model: StableDiffusion) -> None:
    images, z = torch.rand(2, 1, 32, 32), torch.randn(2, 5)
    with torch.no_grad():
        working = model.to_working(images, z)
        colour = images.repeat(1, 3, 1, 1) * 2 - 1
        expected = model.autoencoder.encode(colour).latent_dist.mean * 0.18215
        decoded = model.to_images(working, z)
    torch.testing.assert_close(working, expected)
    assert decoded.shape == images.shape
    assert 0 <= decoded.min() <= decoded.max() <= 1


@torch.no_grad()
def test_many_large_images_are_decoded_in_parts(model: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    working, seen = torch.randn(12, 4, 8, 8), []
    whole = model.decode_full(working)
    hook = model.autoencoder.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    monkeypatch.setattr("image_longitudinal.models.diffusion.diffusion_model.CHUNK_PIXELS", 5 * 32**2)
    parts = model.decode_full(working)
    hook.remove()
    assert seen == [4, 4, 4], "equal, so that an image's place in its batch changes none of its bits"
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=0)  # float32 rounding


def test_a_step_of_training_changes_the_unet_only(
    tiny_vae: VAE, tiny_images: np.ndarray, pretrained: Path, tmp_path: Path
) -> None:
    config = DiffusionConfig(
        kind="stable-diffusion", pretrained=str(pretrained), image_size=32, steps=1, batch_size=2, ema_decay=0.5,
        noise_offset=0.1, learning_rate=1e-3,
    )  # fmt: skip
    model, figures = train_diffusion(tiny_vae, tiny_images, tiny_images[:3], config, 1, tmp_path / "checkpoint", "cpu")
    before = build_diffusion(tiny_vae, config, 1)
    assert isinstance(model, StableDiffusion)
    assert isinstance(before, StableDiffusion)
    for key, value in before.autoencoder.state_dict().items():
        assert torch.equal(model.autoencoder.state_dict()[key], value)
    assert not torch.equal(model.denoiser.conv_in.weight, before.denoiser.conv_in.weight)
    before.train()
    assert (before.denoiser.training, before.autoencoder.training) == (True, False)
    assert not any(parameter.requires_grad for parameter in before.autoencoder.parameters())
    assert len(figures.history) == 1
    assert figures.validation_loss is not None


@pytest.mark.parametrize("lost", ["unet", "vae", "scheduler", "all", "damaged"])
def test_an_incomplete_or_damaged_folder_is_refused_in_one_line(pretrained: Path, tmp_path: Path, lost: str) -> None:
    folder = tmp_path / "copy"
    if lost != "all":
        shutil.copytree(pretrained, folder)
        if lost == "damaged":
            (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"half")
        else:
            shutil.rmtree(folder / lost)
    with pytest.raises(ModelError, match=r"cannot load the pretrained .*copy.*diffusion\.pretrained") as caught:
        StableDiffusion(str(folder), 5, 32)
    assert "\n" not in str(caught.value)


def test_rotating_the_axes_of_z_changes_no_prediction(pretrained: Path) -> None:
    assert_rotation_keeps_predictions(StableDiffusion(str(pretrained), 5, 32).eval(), None)


@pytest.mark.parametrize(("dtype", "apart"), [(torch.float32, 1), (torch.bfloat16, 20)])
def test_prepared_for_sampling_it_samples_the_same_images(pretrained: Path, dtype: torch.dtype, apart: int) -> None:
    """Constants for cross-attention change no grey level by more than one; bfloat16 has 8 bits, over three steps."""
    z, seeds = draws(2, 5)
    model = StableDiffusion(str(pretrained), 5, 32).eval()
    before = images_of(model, z, seeds, steps=3).astype(int)
    model.for_sampling(dtype)
    assert next(model.denoiser.parameters()).dtype == dtype
    after = images_of(model, z, seeds, steps=3).astype(int)
    assert np.abs(after - before).max() <= apart
    assert np.ptp(before) > 2 * apart


def test_a_published_unet_is_loaded_from_its_own_folder(pretrained: Path, tmp_path: Path) -> None:
    """As the original's authors published theirs: the UNet alone, in diffusers' layout."""
    shutil.copytree(pretrained / "unet", tmp_path / "published")
    other = StableDiffusion(str(pretrained), 5, 32, unet=str(tmp_path / "published")).eval()
    own = StableDiffusion(str(pretrained), 5, 32).eval()
    assert all(torch.equal(a, b) for a, b in zip(own.denoiser.parameters(), other.denoiser.parameters(), strict=True))
    with pytest.raises(ModelError, match=r"cannot load the pretrained diffusion model .*none"):
        StableDiffusion(str(pretrained), 5, 32, unet=str(tmp_path / "none"))
    with pytest.raises(ModelError, match="expected ≤ 24; got 25"):  # z longer than a token
        StableDiffusion(str(pretrained), 25, 32)


def test_another_autoencoder_in_its_place_is_refused(tiny_vae: VAE, pretrained: Path, tmp_path: Path) -> None:
    """A version holds the UNet alone; the autoencoder that it names decides every pixel too."""
    folder = shutil.copytree(pretrained, tmp_path / "copy")
    config = DiffusionConfig(kind="stable-diffusion", pretrained=str(folder), image_size=32)
    model = build_diffusion(tiny_vae, config, 1)
    networks = NetworkConfigs(vae=VAEConfig(), diffusion=config, borrowed=tensors_digest(model.borrowed_state()))
    assemble_diffusion(networks, tiny_vae, diffusion_weights(model))
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    tensors, stored = load_tensors(path)
    tensors["decoder.conv_in.bias"] += 1e-3
    save_tensors(path, tensors, stored)
    with pytest.raises(ModelError, match=r"autoencoder is not the one .*copy.*[Rr]estore it there"):
        assemble_diffusion(networks, tiny_vae, diffusion_weights(model))


def make_unet() -> UNet2DConditionModel:
    torch.manual_seed(3)
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32, 32), layers_per_block=1, norm_num_groups=8, cross_attention_dim=24,
        attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()  # fmt: skip


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
    kept = sum(p.numel() for p in (*collapsed.parameters(), *constants.parameters()))
    assert kept < sum(p.numel() for p in unet.parameters())
    assert not any("attn2" in name for name, _ in collapsed.named_parameters()), "keys and queries are gone"


def test_a_network_without_cross_attention_is_refused() -> None:
    plain = UNet2DModel(
        sample_size=8, block_out_channels=(16,), norm_num_groups=8, layers_per_block=1,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    with pytest.raises(ModelError, match="no cross-attention"):
        collapse_cross_attention(plain)
