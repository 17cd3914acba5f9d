"""Export of registered models: unchanged, or in the layout that diffusers loads."""

import tempfile
from pathlib import Path
from typing import Any

from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.diffusion.stable_diffusion import StableDiffusion
from image_longitudinal.models.imaging.assembly import assemble_diffusion, load_vae
from image_longitudinal.models.registry.registry import CARD, MODEL, ModelStore, ModelVersion
from image_longitudinal.models.training.tensor_files import save_tensors


def export_model(version: ModelVersion, target: ModelStore, layout: str = "version") -> list[str]:
    """Copy a version to an opened folder or store, and return the names of the files written.

    The layout ``version`` is what :meth:`Registry.add` imports unchanged; ``diffusers`` is ``unet`` and ``scheduler``
    (and ``vae``, for Stable Diffusion) for ``from_pretrained``, with the project's VAE in ``latent_vae``.

    Raises:
        ModelError: the target holds a model, the version is damaged, or it has no diffusion model.
    """
    if layout not in ("version", "diffusers"):
        raise ModelError("unknown layout", expected="one of version, diffusers", got=layout)
    if target.exists(MODEL) or target.exists("unet/config.json"):
        raise ModelError("the target already holds a model", where=target.url, do="choose another folder")
    if not version.is_intact():
        do = "run the command that trained this model again, which registers it anew, or import it again"
        raise ModelError("registered weights were altered, so nothing was exported", where=version.folder, do=do)
    folder, names = version.folder, [*version.files, CARD, MODEL]
    with tempfile.TemporaryDirectory() as temporary:
        if layout == "diffusers":
            folder = Path(temporary)
            _save_for_diffusers(version, folder)
            names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        for name in names:
            target.put_file(folder / name, name)
    return names


def _save_for_diffusers(version: ModelVersion, folder: Path) -> None:
    networks = version.metadata.networks
    if networks.diffusion is None:
        raise ModelError("this version has no diffusion model", where=version.version, do="use --layout version")
    from diffusers import DDPMScheduler  # here: diffusers takes seconds to import

    vae = load_vae(version)
    model = assemble_diffusion(networks, vae, version.tensors("diffusion"))
    unet: Any = model.denoiser
    unet.save_pretrained(folder / "unet", safe_serialization=True)
    DDPMScheduler(**model.schedule).save_pretrained(folder / "scheduler")
    if isinstance(model, StableDiffusion):
        model.autoencoder.save_pretrained(folder / "vae", safe_serialization=True)
    save_tensors(folder / "latent_vae" / "vae.safetensors", vae.state_dict())
    config = version.metadata.model_dump_json(include={"networks", "measured"}, indent=1) + "\n"
    (folder / "latent_vae" / "config.json").write_text(config, encoding="utf-8")
    (folder / CARD).write_text(version.card, encoding="utf-8")
