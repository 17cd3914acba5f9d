"""Exporting registered models: unchanged, or in the layout that diffusers loads."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.diffusion.stable_diffusion import StableDiffusion
from image_longitudinal.models.imaging.backends import assemble_diffusion, load_vae
from image_longitudinal.models.registry.registry import CARD, MODEL, ModelVersion
from image_longitudinal.models.registry.store import ModelStore
from image_longitudinal.models.training.tensor_files import save_tensors

LAYOUTS = ("version", "diffusers")


def export_model(version: ModelVersion, target: ModelStore, layout: str = "version") -> list[str]:
    """Copy a version out of the registry.

    Args:
        version: with its files on this machine.
        target: where to; must not hold a model yet.
        layout: ``version``, which :meth:`Registry.add` imports unchanged; or ``diffusers``: ``unet`` and
            ``scheduler`` (and ``vae``, for Stable Diffusion) that ``from_pretrained`` loads, and in ``latent_vae`` our
            own VAE with the figures needed to use them.

    Returns:
        The files written, relative to the target.

    Raises:
        ModelError: the target holds something, or the version has no diffusion model.
    """
    if layout not in LAYOUTS:
        raise ModelError("no such layout", expected=f"one of {', '.join(LAYOUTS)}", got=layout)
    if target.exists(MODEL) or target.exists("unet/config.json"):
        raise ModelError("a model is here already", where=target.url, do="choose another folder")
    if layout == "version":
        names = [*version.content["files"], CARD, MODEL]
        for name in names:
            target.put_file(version.folder / name, name)
        return names
    with tempfile.TemporaryDirectory() as temporary:
        _save_for_diffusers(version, Path(temporary))
        files = sorted(path.relative_to(temporary).as_posix() for path in Path(temporary).rglob("*") if path.is_file())
        for name in files:
            target.put_file(Path(temporary) / name, name)
        return files


def _save_for_diffusers(version: ModelVersion, folder: Path) -> None:
    metadata = version.metadata
    if "diffusion" not in metadata:
        raise ModelError(
            "this version has no diffusion model", where=version.version, do="export it as --layout version"
        )
    from diffusers import DDPMScheduler  # here: diffusers takes seconds to import

    vae = load_vae(version)
    model = assemble_diffusion(metadata, vae, version.tensors("diffusion"))
    unet: Any = model.denoiser
    unet.save_pretrained(folder / "unet", safe_serialization=True)
    DDPMScheduler(**model.schedule).save_pretrained(folder / "scheduler")
    if isinstance(model, StableDiffusion):
        model.autoencoder.save_pretrained(folder / "vae", safe_serialization=True)
    save_tensors(folder / "latent_vae" / "vae.safetensors", vae.state_dict())
    config = {
        "vae": metadata["vae"],
        "diffusion": metadata["diffusion"],
        "residual_scale": metadata.get("residual_scale"),
        "entries": metadata.get("entries"),
        "recoverability": metadata.get("recoverability"),
    }
    (folder / "latent_vae" / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    (folder / CARD).write_bytes((version.folder / CARD).read_bytes())
