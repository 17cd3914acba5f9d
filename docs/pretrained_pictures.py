"""Pictures of what the bundled models make: ``python -m docs.pretrained_pictures docs/pictures/pretrained.png``."""

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from image_longitudinal.core.config import GeneratorConfig
from image_longitudinal.models.imaging.backends import load_image_model
from image_longitudinal.models.imaging.interface import generate_in_batches
from image_longitudinal.models.pretrained import BUNDLED
from image_longitudinal.models.quality.recoverability import probe_latents
from image_longitudinal.tasks.workspace import Workspace

COLUMNS, WIDTH = {64: 12, 128: 6}, 1536  # images a row by their size; pixels of the picture
ROWS = {64: 3, 128: 2}


def main(target: str) -> None:
    """Write images of latents from N(0, I), the first of a seed, none chosen: at 64x64 above those at 128x128."""
    strips = []
    with tempfile.TemporaryDirectory() as workspace:
        for name in BUNDLED:
            version = Workspace.at(workspace).model(name)
            model = load_image_model(GeneratorConfig(scheduler="whitened", steps=8), version, "cpu")
            size = model.image_size
            latents, seeds = probe_latents(1, ROWS[size] * COLUMNS[size], model.latent_dim, "pictures")
            images = generate_in_batches(model, latents, seeds, 12)
            rows = images.reshape(ROWS[size], COLUMNS[size], size, size).transpose(0, 2, 1, 3)
            strip = Image.fromarray(np.ascontiguousarray(rows.reshape(ROWS[size] * size, -1)))
            strips.append(strip.resize((WIDTH, WIDTH * strip.height // strip.width), Image.Resampling.BICUBIC))
    picture = Image.new("L", (WIDTH, sum(strip.height for strip in strips)))
    top = 0
    for strip in strips:
        picture.paste(strip, (0, top))
        top += strip.height
    picture.save(Path(target), optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
