"""Image models behind one interface: by name, from a registered version, the same image wherever a shard is cut."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from image_longitudinal.core.config import GeneratorConfig
from image_longitudinal.core.errors import ConfigError, ModelError
from image_longitudinal.models.imaging.assembly import load_vae
from image_longitudinal.models.imaging.backends import (
    describe,
    find_backend,
    import_backend,
    load_image_model,
    needs_diffusion,
    needs_training,
)
from image_longitudinal.models.imaging.interface import ImageModel, generate_in_batches
from image_longitudinal.models.imaging.phantom import render
from image_longitudinal.models.registry.registry import ModelVersion, Registry
from tests.models.conftest import draws, model_metadata, random_denoiser

SHIPPED = ("phantom", "vae", "diffusion")


def config(backend: str, **values: Any) -> GeneratorConfig:
    return GeneratorConfig.model_validate({"backend": backend, "image_size": 32, "latent_dim": 5, "steps": 3} | values)


@dataclass(frozen=True)
class Stripes:
    """A user's backend: rows as bright as the first latent entry says."""

    latent_dim: int = 5
    image_size: int = 32
    digest: str = "stripes"

    def generate(self, latents: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        level = (latents[:, 0] * 20 + 128).clip(0, 255).astype(np.uint8)
        return np.broadcast_to(level[:, None, None], (len(latents), 32, 32)).copy()


def stripes(config: GeneratorConfig, version: ModelVersion | None, device: torch.device) -> ImageModel:
    assert device.type == "cpu"
    return Stripes(config.latent_dim)


@pytest.fixture(params=[*SHIPPED, f"{__name__}:stripes"], ids=[*SHIPPED, "own"])
def model(request: pytest.FixtureRequest, tiny_version: ModelVersion) -> ImageModel:
    import_backend(request.param)
    made = load_image_model(config(request.param), tiny_version, "cpu")
    if request.param == "diffusion":
        random_denoiser(made.network)  # type: ignore[attr-defined]  # trained for six steps, it adds next to nothing
    return made


def test_every_backend_keeps_the_interface(model: ImageModel) -> None:
    z, seeds = draws(4, model.latent_dim)
    images = model.generate(z, seeds)
    assert (model.latent_dim, model.image_size) == (5, 32)
    assert (images.shape, images.dtype) == ((4, 32, 32), np.uint8)
    assert model.digest
    np.testing.assert_array_equal(model.generate(z, seeds), images)
    assert (model.generate(z + 1, seeds) != images).any(axis=(1, 2)).all()


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_an_image_is_the_same_wherever_shards_are_cut(model: ImageModel, batch: int) -> None:
    """Bit for bit; within a grey level in batches of another size."""
    z, seeds = draws(13, 5)
    whole = generate_in_batches(model, z, seeds, batch)
    assert np.abs(generate_in_batches(model, z, seeds, 4) - whole.astype(int)).max() <= 1
    assert np.ptp(whole) > 0
    assert generate_in_batches(model, z[:0], seeds[:0], batch).shape == (0, 32, 32)
    for cuts in ([4], [1, 2, 9], [12], [5, 10]):
        parts = [generate_in_batches(model, z[rows], seeds[rows], batch) for rows in np.split(np.arange(13), cuts)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_only_some_backends_use_the_seed(tiny_version: ModelVersion) -> None:
    z, seeds = draws(3, 5)
    for backend, uses in (("phantom", True), ("vae", False), ("diffusion", True)):
        made = load_image_model(config(backend), tiny_version, "cpu")
        assert (made.generate(z, seeds) != made.generate(z, seeds + 1)).any() == uses, backend


def test_the_backends_are_the_phantom_the_decoder_and_the_registered_denoiser(tiny_version: ModelVersion) -> None:
    z, seeds = draws(3, 5)
    phantom = load_image_model(config("phantom", image_size=48), None, "cpu")
    np.testing.assert_array_equal(phantom.generate(z, seeds), render(z, seeds, 48))
    with torch.no_grad():
        decoded = load_vae(tiny_version).decode(torch.from_numpy(z))[:, 0].numpy()
    images = load_image_model(config("vae"), tiny_version, "cpu").generate(z, seeds)
    np.testing.assert_allclose(images, decoded * 255, atol=0.501)
    network = load_image_model(config("diffusion"), tiny_version, "cpu").network  # type: ignore[attr-defined]
    state = network.denoiser.state_dict()
    assert all(torch.equal(state[key], value) for key, value in tiny_version.tensors("diffusion").items())
    assert network.residual_scale == tiny_version.metadata.networks.residual_scale


def test_digests_tell_apart_what_decides_a_pixel(tiny_version: ModelVersion, tmp_path: Path) -> None:
    metadata = tiny_version.metadata.model_copy(update={"seed": 2})
    other = Registry(tmp_path).register(tiny_version.all_tensors(), metadata, "")

    def digest(version: ModelVersion, *arguments: Any, **values: Any) -> str:
        asked = config(*arguments, **values)
        model, description = load_image_model(asked, version, "cpu"), describe(asked, version)
        assert description == (model.digest, model.image_size, model.latent_dim), "known without loading"
        return description.digest

    different = [digest(tiny_version, "phantom", **values) for values in ({}, {"image_size": 48}, {"latent_dim": 6})]
    different += [digest(version, backend) for version in (tiny_version, other) for backend in ("vae", "diffusion")]
    for values in ({"steps": 4}, {"scheduler": "euler"}, {"precision": "bfloat16"}):
        different.append(digest(tiny_version, "diffusion", **values))
    assert len(set(different)) == len(different)
    # What a backend does not use leaves its digest alone.
    assert digest(tiny_version, "vae", steps=9, scheduler="euler", batch_size=2) == different[3]
    assert digest(tiny_version, "phantom", steps=9) == different[0]


def test_missing_and_altered_weights_make_no_image(tiny_version: ModelVersion, tmp_path: Path) -> None:
    for backend in ("vae", "diffusion"):
        with pytest.raises(ModelError, match=f"the {backend} backend needs a trained model.*image-longitudinal train"):
            load_image_model(config(backend), None, "cpu")
    weights = {name: tiny_version.tensors(name) for name in ("vae", "diffusion")}
    version = Registry(tmp_path).register(weights, tiny_version.metadata, "")
    path = version.folder / "diffusion.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    load_image_model(config("vae"), version, "cpu")
    with pytest.raises(ModelError, match="altered"):
        load_image_model(config("diffusion"), version, "cpu")


@pytest.mark.parametrize(
    ("changes", "lacking"), [({"scheduler": "student"}, "student"), ({"decoder": "light"}, "light-decoder")]
)
def test_a_missing_network_is_an_error_before_any_is_loaded(
    tiny_version: ModelVersion, tmp_path: Path, changes: dict[str, str], lacking: str
) -> None:
    with pytest.raises(ModelError, match=f"the model has no {lacking}.*image-longitudinal distill"):
        describe(config("diffusion", **changes), tiny_version)
    version = Registry(tmp_path).register({"vae": tiny_version.tensors("vae")}, model_metadata(diffusion=None), "")
    for function in (load_image_model, describe):
        with pytest.raises(ModelError, match=r"no diffusion model.*generator\.backend=vae"):
            function(config("diffusion"), version)


def test_a_solver_that_does_not_fit_the_model_is_refused_before_any_network_is_loaded(
    tiny_version: ModelVersion,
) -> None:
    with pytest.raises(ConfigError, match=r"generator\.scheduler centred does not fit .*flattened; got residual"):
        describe(config("diffusion", scheduler="centred"), tiny_version)


@pytest.mark.parametrize("name", ["no.such.module:make", f"{__name__}:nothing", ":make", f"{__name__}:"])
def test_a_backend_that_cannot_be_imported_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"generator\.backend cannot be imported"):
        import_backend(name)
    for look_up in (import_backend, find_backend):
        with pytest.raises(ConfigError, match=r"one of phantom, vae, diffusion, or package\.module:factory; got gan"):
            look_up("gan")


def test_looking_a_backend_up_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set may name any importable code; only the user's own naming of it imports it."""
    (tmp_path / "evil_backend.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nmake = print\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("evil_backend:make", "os:getcwd"):
        with pytest.raises(ConfigError, match=r"not imported because data name it .*--trust"):
            describe(config(name), None)
    assert not (tmp_path / "ran").exists()
    import_backend("evil_backend:make")
    assert find_backend("evil_backend:make") is print
    assert (tmp_path / "ran").exists()


def test_which_backends_need_what() -> None:
    import_backend(f"{__name__}:stripes")
    assert describe(config(f"{__name__}:stripes"), None) == ("stripes", 32, 5), "as its factory makes it"
    assert [needs_training(name) for name in (*SHIPPED, "my.module:make")] == [False, True, True, True]
    assert [needs_diffusion(name) for name in (*SHIPPED, "my.module:make")] == [False, False, True, True]
