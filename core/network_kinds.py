"""Which kinds of networks and solvers may be combined: rules over several sections of a configuration."""

from image_longitudinal.core.config import Config
from image_longitudinal.core.errors import ConfigError

FLATTENED_MIN_DIM = 5  # four dimensions for the curve of the retina, one or more for its appearance


def check_networks(config: Config) -> None:
    """Check that the kinds of VAE and diffusion model fit each other.

    Raises:
        ConfigError: they do not.
    """
    vae, diffusion, flattened = config.vae, config.diffusion, "flattened"
    alone = config.generator.backend == "vae"  # without a diffusion model
    if vae.dp is not None and not alone:
        raise ConfigError(
            "a differentially private VAE cannot have a diffusion model", where="vae.dp",
            expected="generator.backend vae", got=config.generator.backend,
            do="set generator.backend=vae: a diffusion model is trained on the same scans without noise",
        )  # fmt: skip
    if not alone and (vae.kind == flattened) != (diffusion.kind == flattened):
        raise ConfigError(
            "vae.kind and diffusion.kind do not fit", expected="both flattened, or neither",
            got=f"{vae.kind} and {diffusion.kind}",
        )  # fmt: skip
    if vae.kind != flattened:
        return
    if vae.latent_dim < FLATTENED_MIN_DIM:
        expected = f"{FLATTENED_MIN_DIM} or more: four for the curve of the retina, the others for its appearance"
        raise ConfigError("vae.latent_dim is too small for vae.kind flattened", expected=expected, got=vae.latent_dim)
    if not alone and vae.image_size != diffusion.image_size:
        raise ConfigError(
            "vae.image_size and diffusion.image_size differ", where="vae.kind flattened", expected="one size for both",
            got=f"{vae.image_size} and {diffusion.image_size}",
        )  # fmt: skip


def check_solvers(config: Config, kind: str) -> None:
    """Check that both solvers of a configuration fit a diffusion model's kind.

    Raises:
        ConfigError: one does not.
    """
    check_solver("probe", config.probe.scheduler, config.probe.steps, kind)
    check_solver("generator", config.generator.scheduler, config.generator.steps, kind)


def check_solver(section: str, scheduler: str, steps: int, kind: str) -> None:
    """Check that a solver fits a diffusion model's kind; ``section`` has the settings ``scheduler`` and ``steps``.

    Raises:
        ConfigError: it does not.
    """
    if scheduler != "centred":
        return
    if kind != "flattened":
        raise ConfigError(
            f"{section}.scheduler centred does not fit the model", expected="a model of the kind flattened", got=kind,
            do="use whitened, which evaluates the network once more",
        )  # fmt: skip
    if steps < 2:
        raise ConfigError(f"{section}.steps is impossible", expected="at least 2 for centred", got=steps)
