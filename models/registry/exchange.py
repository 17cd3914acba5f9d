"""Export of registered models: unchanged, or in the layout that diffusers loads."""

import tempfile
from pathlib import Path
from typing import Any

from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.diffusion.stable_diffusion import StableDiffusion
from image_longitudinal.models.imaging.assembly import assemble_diffusion, load_vae
from image_longitudinal.models.registry.gates import GATES, gates_document
from image_longitudinal.models.registry.registry import CARD, MODEL, ModelStore, ModelVersion
from image_longitudinal.models.training.tensor_files import save_tensors


def export_model(
    version: ModelVersion, target: ModelStore, layout: str = "version", *, scans_licence: str | None = None
) -> list[str]:
    """Copy a version to an opened folder or store, and return the names of the files written.

    Pictures of real scans are left out unless ``scans_licence`` names the licence under which they are passed on,
    which the card then states.

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
    private = version.private_files if layout == "version" and scans_licence else []
    folder, names = version.folder, [*version.public_files, *private, MODEL]
    with tempfile.TemporaryDirectory() as temporary:
        if layout == "diffusers":
            folder = Path(temporary)
            _save_for_diffusers(version, folder)
            names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        card = version.card
        if private:
            files = ", ".join(f"`{name}`" for name in private)
            card += f"\n**Real scans:** {files} show scans of patients; licence of these pictures: {scans_licence}.\n"
        target.write_bytes(CARD, card.encode())
        if layout == "version" and version.gates:
            target.write_bytes(GATES, gates_document(version.gates).encode())
        for name in names:
            target.put_file(folder / name, name)
    return [CARD, *([GATES] if target.exists(GATES) else []), *names]


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
