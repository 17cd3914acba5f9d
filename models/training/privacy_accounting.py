"""How private a training is: ε of its noise, and the noise for an ε, by the accountant of opacus.

Rényi differential privacy of Gaussian noise on Poisson samples (Mironov, Talwar & Zhang 2019, arXiv 1908.10530).
"""

import warnings

from image_longitudinal.core.config import PrivacyConfig
from image_longitudinal.core.errors import ModelError, naming_missing_extra
from image_longitudinal.models.registry.metadata import PrivacyFigures

TOLERANCE = 0.01  # the noise is found for an ε at most this much below the one asked for


def planned_privacy(config: PrivacyConfig, patients: int, expected: int, steps: int) -> PrivacyFigures:
    """The noise and the guarantee of ``steps`` steps with ``expected`` of ``patients`` patients each, on average.

    Raises:
        MissingExtraError: opacus is not installed.
        ModelError: there are too few patients for such steps, or for this δ; or no noise reaches this ε.
    """
    if expected > patients:
        raise ModelError(
            "too few patients for private training", where="vae.batch_size",
            expected=f"at most the {patients} patients of the training split", got=expected,
        )  # fmt: skip
    if config.delta * patients >= 1:
        raise ModelError(
            "δ is too large", where="vae.dp.delta", got=config.delta,
            expected=f"well below 1 / {patients} patients: with that probability a whole patient may be given away",
        )  # fmt: skip
    with naming_missing_extra():
        import opacus
        from opacus.accountants.utils import get_noise_multiplier
    rate, noise = expected / patients, config.noise_multiplier
    if noise is None:
        try:
            with warnings.catch_warnings():  # the search passes through noise for which the orders are too few
                warnings.filterwarnings("ignore", "Optimal order is", UserWarning)
                noise = get_noise_multiplier(
                    target_epsilon=config.epsilon, target_delta=config.delta, sample_rate=rate, steps=steps,
                    accountant="rdp", epsilon_tolerance=TOLERANCE,
                )  # fmt: skip
        except ValueError as error:
            do = "raise vae.dp.epsilon, or lower vae.steps or vae.batch_size"
            raise ModelError("no noise is enough for this ε", where="vae.dp", got=config.epsilon, do=do) from error
    return PrivacyFigures(
        epsilon=epsilon_of(noise, rate, steps, config.delta), delta=config.delta, patients=patients, sampling_rate=rate,
        steps=steps, noise_multiplier=noise, max_grad_norm=config.max_grad_norm,
        accountant=f"Rényi, opacus {opacus.__version__}",
    )  # fmt: skip


def epsilon_of(noise_multiplier: float, sampling_rate: float, steps: int, delta: float) -> float:
    """ε at this δ of so many steps, each of Gaussian noise on a Poisson sample; patients are added or removed.

    Raises:
        MissingExtraError: opacus is not installed.
    """
    with naming_missing_extra():
        from opacus.accountants import RDPAccountant
    accountant = RDPAccountant()
    accountant.history = [(noise_multiplier, sampling_rate, steps)]
    return float(accountant.get_epsilon(delta=delta))
