"""The card of a private model says what ε covers and what it does not."""

from image_longitudinal.models.registry.metadata import PrivacyFigures
from image_longitudinal.tasks.reports.model_card import model_card
from tests.models.conftest import model_metadata

PRIVACY = PrivacyFigures(
    epsilon=2.9949, delta=1e-5, patients=4000, sampling_rate=0.016, steps=1200, noise_multiplier=1.0432,
    max_grad_norm=0.5, accountant="Rényi, opacus 1.6.0",
)  # fmt: skip


def test_the_guarantee_is_on_the_card_and_only_of_private_models() -> None:
    metadata = model_metadata(diffusion=None)
    vae = metadata.training.vae.model_copy(update={"privacy": PRIVACY})
    training = metadata.training.model_copy(update={"vae": vae})
    card = " ".join(model_card(metadata.model_copy(update={"training": training})).split())
    for part in (
        "ε = 2.99 at δ = 1e-05, for each patient of the training split with all of their scans",
        "1,200 steps, each with one scan of every one of 4,000 patients with probability 0.0160",
        "gradients clipped to 0.5, noise of 1.04 times that", "accountant Rényi, opacus 1.6.0",
        "Within ε: the weights", "Outside of ε: every figure below that compares with training scans",
        "not fitted to training images",
    ):  # fmt: skip
        assert part in card
    assert "over training images they have mean 0" not in card
    assert "ε" not in model_card(metadata)
