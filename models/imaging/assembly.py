"""Networks assembled from a registered version's configuration and weights, on the CPU, in evaluation mode."""

from torch import Tensor

from image_longitudinal.core.config import DiffusionConfig
from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.diffusion.adagn import ResidualDiffusion
from image_longitudinal.models.diffusion.diffusion_model import DiffusionModel
from image_longitudinal.models.diffusion.distillation import build_light_decoder
from image_longitudinal.models.diffusion.stable_diffusion import StableDiffusion
from image_longitudinal.models.diffusion.train import build_diffusion
from image_longitudinal.models.flattened.retina import FlattenedRetina, assemble_flattened_retina
from image_longitudinal.models.flattened.train import build_flattened_diffusion
from image_longitudinal.models.registry.metadata import NetworkConfigs
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.models.training.tensor_files import tensors_digest
from image_longitudinal.models.vae.latent_model import LatentModel
from image_longitudinal.models.vae.network import VAE
from image_longitudinal.models.vae.train import build_vae

FROZEN = "frozen/"  # prefix of the names of weights that are not the denoiser's
STUDENT, LIGHT_DECODER = "student", "light-decoder"  # names of distilled weights


def load_vae(version: ModelVersion) -> LatentModel:
    """The VAE of a registered version."""
    return assemble_vae(version.metadata.networks, version.tensors("vae"))


def require_networks(version: ModelVersion, student: bool = False, light: bool = False) -> None:
    """Check that a version has a diffusion model, and the distilled networks asked for.

    Raises:
        ModelError: one is missing.
    """
    metadata = version.metadata
    if metadata.networks.diffusion is None:
        raise ModelError(
            "this version has no diffusion model", where=version.version, do="use generator.backend=vae, or train one"
        )
    distilled = metadata.distillation.networks if metadata.distillation else ()
    for network, wanted, setting in ((STUDENT, student, "scheduler"), (LIGHT_DECODER, light, "decoder")):
        if wanted and network not in distilled:
            raise ModelError(
                f"the model has no {network}", where=version.version,
                do=f"make one with: image-longitudinal distill {version.version}; or change generator.{setting}",
            )  # fmt: skip


def load_diffusion(version: ModelVersion, student: bool = False, light: bool = False) -> DiffusionModel:
    """The diffusion model of a registered version, with its distilled ``student`` or ``light`` decoder if asked for.

    Raises:
        ModelError: the version lacks one of them; see also :func:`assemble_diffusion`.
    """
    require_networks(version, student, light)
    weights = version.tensors("diffusion")
    if student:
        weights = with_denoiser(weights, version.tensors(STUDENT))
    model = assemble_diffusion(version.metadata.networks, load_vae(version), weights)
    if light:
        use_light_decoder(model, version.tensors(LIGHT_DECODER))
    return model


def assemble_vae(networks: NetworkConfigs, weights: dict[str, Tensor]) -> LatentModel:
    """A VAE with these weights."""
    if networks.vae.kind == "flattened":
        return assemble_flattened_retina(networks.vae, weights)
    vae = build_vae(networks.vae, 0)
    vae.load_state_dict(weights)
    return vae.eval()


def assemble_diffusion(networks: NetworkConfigs, vae: LatentModel, weights: dict[str, Tensor]) -> DiffusionModel:
    """A diffusion model around ``vae``, with the weights that :func:`diffusion_weights` gave.

    Raises:
        ModelError: the pretrained part differs from the one used at registration.
    """
    config = networks.diffusion
    assert config is not None, "a VAE alone has no diffusion model to assemble"
    model = build_network(vae, config)
    found, expected = tensors_digest(model.borrowed_state()), networks.borrowed
    if expected not in (None, found):
        raise ModelError(
            "the pretrained autoencoder is not the one that this model was trained with", where=config.pretrained,
            expected=f"sha256 {expected} over its tensors", got=found, do="restore it there, or train again",
        )  # fmt: skip
    frozen = {key: value for key, value in weights.items() if key.startswith(FROZEN)}
    model.denoiser.load_state_dict({key: value for key, value in weights.items() if key not in frozen})
    model.load_frozen_state({key.removeprefix(FROZEN): value for key, value in frozen.items()})
    if isinstance(model, ResidualDiffusion) and networks.residual_scale is not None:
        model.residual_scale = networks.residual_scale
    return model.eval()


def build_network(vae: LatentModel, config: DiffusionConfig) -> DiffusionModel:
    """The configured diffusion model around a VAE, or around a flattened retina, to load weights into."""
    if isinstance(vae, FlattenedRetina):
        return build_flattened_diffusion(vae, config, 0)
    assert isinstance(vae, VAE), "the configuration checks that both kinds fit"
    return build_diffusion(vae, config, 0)


def diffusion_weights(model: DiffusionModel) -> dict[str, Tensor]:
    """The weights that :func:`assemble_diffusion` needs beside the VAE's: the denoiser's and the frozen parts'."""
    frozen = {f"{FROZEN}{key}": value for key, value in model.frozen_state().items()}
    return {**model.denoiser.state_dict(), **frozen}


def trained_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of :func:`diffusion_weights` that a training can start from: the denoiser's. A VAE's are all trained."""
    return {key: value for key, value in weights.items() if not key.startswith(FROZEN)}


def with_denoiser(weights: dict[str, Tensor], denoiser: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a diffusion model with another denoiser."""
    return {**{key: value for key, value in weights.items() if key.startswith(FROZEN)}, **denoiser}


def use_light_decoder(model: DiffusionModel, weights: dict[str, Tensor]) -> None:
    """Replace the decoder of a Stable Diffusion model's autoencoder by a light one with these weights."""
    assert isinstance(model, StableDiffusion), "only this kind has a light decoder"
    width = len(weights["network.layers.0.bias"])
    model.light = build_light_decoder(model, width, 0)
    model.light.load_state_dict(weights)
