"""The card of a registered model, as markdown: what it is, what it was trained on, what was measured."""

from collections.abc import Sequence

from image_longitudinal.core.gates import Gate
from image_longitudinal.models.registry.metadata import Measurement, ModelMetadata, PrivacyFigures, TrainingImages
from image_longitudinal.models.registry.real_scans import NOTE
from image_longitudinal.tasks.reports.model_figures import quality_rows
from image_longitudinal.tasks.reports.scorecard import scorecard_markdown, scorecard_rows


def model_card(metadata: ModelMetadata, gates: Sequence[Gate] = ()) -> str:
    """The card of a model with this metadata, and what was found at its gates."""
    images, vae, measured = metadata.images, metadata.training.vae, metadata.measured
    probe = measured.probe
    networks, sampler = "VAE", ""
    if metadata.networks.diffusion:
        networks, sampler = "VAE and a diffusion model", f" ({probe.scheduler}, {probe.steps} steps)"
    source = "scans" if images.kind == "scans" else "procedural phantom images"
    rows = "\n".join(
        f"| {dimension} | {measured.recoverability[dimension]:.3f} | {measured.noise_spread[dimension]:.3f} |"
        for dimension in measured.latent_order
    )
    error = "not measured" if vae.validation_mse is None else f"{vae.validation_mse:.5f}"
    latents = f"""- Perceptual term of the VAE's loss: {vae.perception}. Validation error (mean squared, grey 0 to 1):
  {error}. Active dimensions before standardisation: {vae.active_units}.
- Latents are standardised (over training images they have mean 0 and covariance I) and rotated to the axes that are
  most recoverable from finished images."""
    if vae.privacy is not None:
        latents = f"""- Perceptual term of the VAE's loss: {vae.perception}. Validation error (mean squared, grey 0 to
  1): {error}. Active dimensions: {vae.active_units}.
- Latents are those of the prior, z ~ N(0, I), not fitted to training images, and rotated to the axes that are most
  recoverable from finished images."""
    if vae.explained_variance is not None:
        networks = "model of flattened retinas with diffusion" if metadata.networks.diffusion else "flattened retina"
        latents = f"""- Of z, dimensions 0 to 3 are the curve of the retina (position, tilt, curvature, asymmetry), the
  others principal components of the flattened image: {sum(vae.explained_variance):.0%} of its variance.
- z is N(0, I) by construction: an increasing, invertible map of a mixture of Gaussians leads to the coordinates
  of scans; the number of Gaussians has the best likelihood of patients left out."""
    return f"""# Image model of image-longitudinal

A {networks}, trained on {images.by_split.get("train", 0)} of {images.images} {source}
({images.by_split}; splits share no patient). For making synthetic benchmark data; not for diagnosis.

{latents}
{_arithmetic_line(metadata)}
Recoverability: R² of z ~ N(0, I), read back from {probe.n_images:,} generated images{sampler} by
{_reader(measured)};
best first, with its standard deviation over noise seeds:

| latent dimension | R² | sd |
|---|---|---|
{rows}
{_guarantee(vae.privacy)}{_quality_section(measured)}{scorecard_markdown(scorecard_rows(measured))}{_gates_section(gates)}{_privacy(images)}
Method: arXiv 2410.16177. Weights are safetensors; `model.json` holds configuration and figures.
"""


def _guarantee(privacy: PrivacyFigures | None) -> str:
    if privacy is None:
        return ""
    return f"""
The weights are differentially private: ε = {privacy.epsilon:.2f} at δ = {privacy.delta:g}, for each
{privacy.unit} of the training split with all of their scans.

- DP-SGD: {privacy.steps:,} steps, each with one scan of every one of {privacy.patients:,} patients with probability
  {privacy.sampling_rate:.4f}; gradients clipped to {privacy.max_grad_norm:g}, noise of {privacy.noise_multiplier:.2f}
  times that. ε by the accountant {privacy.accountant}, for patients added or removed.
- Within ε: the weights, the rotation of z, and all images made from them, which are data sets too.
- Outside of ε: every figure below that compares with training scans (nearest scans, copies, membership, the judge), as
  it is measured without noise; scans of held-out patients that are shown or measured; which scans were taken at all,
  and into which split; how many scans and patients there are, by split and class; settings chosen by looking at
  results. Another model of the same patients adds its own ε.
- Sample and noise are secret: drawn from the operating system's randomness, kept nowhere, not repeatable by the seed.
  The generator (Mersenne Twister) is not cryptographic, and rounding of floating-point noise is not accounted for.
"""


def _arithmetic_line(metadata: ModelMetadata) -> str:
    if not (used := metadata.arithmetic):
        return ""
    processes = f"{used.processes} processes of " if used.processes > 1 else ""
    return (
        f"- Trained with torch {used.torch} on {used.device}, {processes}{used.threads} CPU threads,\n"
        f"  {used.instructions}: with others, the same configuration gives other weights.\n"
    )


def _reader(measured: Measurement) -> str:
    if measured.read_by == "encoder":
        return "the model's own encoder"
    return (
        f"a network trained for it, apart from the generator, on {measured.probe.reader_images:,} other generated "
        f"images ({measured.probe.reader_steps:,} batches of 64)"
    )


def _privacy(images: TrainingImages) -> str:
    return f"\n{NOTE}\n" if images.kind == "scans" else ""


def _gates_section(gates: Sequence[Gate]) -> str:
    if not gates:
        return ""
    rows = "\n".join(f"| {one.name} | {one.found} | {one.wanted} | {one.verdict} |" for one in gates)
    return f"""
What was wanted of it when it was registered:

| measured | found | wanted | |
|---|---|---|---|
{rows}
"""


def _quality_section(measured: Measurement) -> str:
    if not measured.fidelity:
        return ""
    n = next(iter(measured.fidelity.values())).n
    rows = "\n".join(f"| {' | '.join(map(str, row.values()))} |" for row in quality_rows(measured))
    return f"""
Generated images beside real ones, {n} of each against images of held-out patients:

| features | figure | generated | real (floor) |
|---|---|---|---|
{rows}
"""
