"""How large a data set will be, from its configuration alone."""

from image_longitudinal.core.config import Config

PIXEL_BYTES = 0.8  # of a pixel, compressed: 0.4 to 0.9 by the noise of the images
ROW_BYTES = 7.0  # of a row of observations, compressed


def image_side(config: Config) -> int:
    """Pixels a side of the images, if their model is trained with this configuration or is a phantom."""
    sizes = {"phantom": config.generator.image_size, "vae": config.vae.image_size}
    return sizes.get(config.generator.backend, config.diffusion.image_size)


def observation_rows(config: Config) -> int:
    """Rows of the observations of all levels: visits and doses."""
    outcomes = config.outcomes
    rows = len(outcomes.times) + len(outcomes.given)
    return config.dataset.n_subjects * len(config.dataset.association) * rows


def expected_bytes(config: Config, side: int) -> float:
    """Bytes of images of ``side`` pixels and of observations; the rest is small beside them."""
    return PIXEL_BYTES * config.dataset.n_subjects * side**2 + ROW_BYTES * observation_rows(config)
