"""The card of a registered model, as markdown: what it is, what it was trained on, what was measured."""

from __future__ import annotations

from typing import Any

from image_longitudinal.tasks.reports.model_figures import quality_rows


def model_card(metadata: dict[str, Any]) -> str:
    """The card of a model with this metadata (see :func:`tasks.training.registration.register_model`)."""
    images, vae, probe = metadata["images"], metadata["figures"]["vae"], metadata["probe"]
    source = "scans" if images["source"]["kind"] == "scans" else "procedural phantom images"
    rows = "\n".join(
        f"| {entry} | {metadata['recoverability'][entry]:.3f} | {metadata['noise_spread'][entry]:.3f} |"
        for entry in metadata["entries"]
    )
    return f"""# Image model of image-longitudinal

A VAE{" and a diffusion model" if "diffusion" in metadata else ""} trained on {images["counts"]["images"]} {source}
({images["counts"]["by_split"]}; splits share no patient). For making synthetic benchmark data; not for diagnosis.

- Perceptual term of the VAE's loss: {vae["perception"]}. Validation error (mean squared, grey 0 to 1):
  {vae["validation_mse"]:.5f}. Active entries before standardisation: {vae["active_units"]}.
- Latents are standardised (over training images they have mean 0 and covariance I) and turned to the axes that
  survive best into finished images.

Recoverability: R² of z ~ N(0, I), read back from {probe["n_images"]:,} generated images{_drawn(metadata)} by
{_reader(metadata)};
best first, with its standard deviation over draws of the noise:

| entry | R² | sd |
|---|---|---|
{rows}
{_quality_words(metadata)}
Method: arXiv 2410.16177. Weights are safetensors; `model.json` holds configuration and figures.
"""


def _drawn(metadata: dict[str, Any]) -> str:
    probe = metadata["probe"]
    return f" ({probe['scheduler']}, {probe['steps']} steps)" if "diffusion" in metadata else ""


def _reader(metadata: dict[str, Any]) -> str:
    probe = metadata["probe"]
    if metadata["read_by"] == "encoder":
        return "the VAE's encoder"
    return (
        f"a network trained for it, apart from the generator, on {probe['reader_images']:,} other generated images "
        f"({probe['reader_steps']:,} batches of 64)"
    )


def _quality_words(metadata: dict[str, Any]) -> str:
    if not metadata["quality"]:
        return ""
    lines = ["| {features} | {figure} | {generated} | {real (floor)} |".format(**row) for row in quality_rows(metadata)]
    n = next(iter(metadata["quality"].values()))["n"]
    return "\n".join(
        [
            "",
            f"Generated images beside real ones, {n} of each against images of patients held out:",
            "",
            "| features | figure | generated | real (floor) |",
            "|---|---|---|---|",
            *lines,
            "",
        ]
    )
