"""Export and import: the same version comes back, and diffusers loads what is written for it."""

from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel

from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.imaging.assembly import load_diffusion
from image_longitudinal.models.registry.exchange import export_model
from image_longitudinal.models.registry.registry import ModelVersion, Registry
from image_longitudinal.storage.io.open import open_root


def test_an_exported_version_comes_back_as_it_was_unless_it_was_altered(
    tiny_version: ModelVersion, tmp_path: Path
) -> None:
    out, other = tmp_path / "out", Registry(tmp_path / "other")
    export_model(tiny_version, open_root(out))
    back = other.add(open_root(out))
    assert (back.digest, back.files, back.metadata) == (tiny_version.digest, tiny_version.files, tiny_version.metadata)
    assert torch.equal(back.tensors("vae")["shift"], tiny_version.tensors("vae")["shift"])
    with pytest.raises(ModelError, match="already holds a model"):
        export_model(tiny_version, open_root(out))
    (out / "vae.safetensors").write_bytes(b"other")
    with pytest.raises(ModelError, match="altered"):
        other.add(open_root(out))
    with pytest.raises(ModelError, match="no model here"):
        other.add(open_root(tmp_path))


def test_damaged_weights_are_not_exported(tiny_version: ModelVersion, tmp_path: Path) -> None:
    out, other = tmp_path / "out", Registry(tmp_path / "other")
    export_model(tiny_version, open_root(out))
    version = other.add(open_root(out))
    path = version.folder / "vae.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    for layout in ("version", "diffusers"):
        with pytest.raises(ModelError, match="altered, so nothing was exported"):
            export_model(version, open_root(tmp_path / layout), layout)
        assert not (tmp_path / layout).exists()


def test_diffusers_loads_the_export_and_predicts_the_same(tiny_version: ModelVersion, tmp_path: Path) -> None:
    export_model(tiny_version, open_root(f"file://{tmp_path}/out"), "diffusers")
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "out", subfolder="unet", use_safetensors=True)
    scheduler = DDPMScheduler.from_pretrained(tmp_path / "out", subfolder="scheduler")
    assert scheduler.config.prediction_type == "v_prediction"
    ours = load_diffusion(tiny_version)
    z, t = torch.randn(2, ours.latent_dim), torch.tensor([3, 700])
    noisy = torch.randn(2, *ours.working_shape)
    with torch.no_grad():
        expected = ours.denoise(ours.denoiser, noisy, t, z, ours.context(z))
        got = ours.denoise(unet, noisy, t, z, ours.context(z))
    assert torch.equal(got, expected)
