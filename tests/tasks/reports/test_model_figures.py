"""Pictures of a model, as people open them."""

import io

import numpy as np
import pytest
from PIL import Image

from image_longitudinal.tasks.reports.model_figures import animation


@pytest.mark.parametrize(("side", "shown"), [(32, 160), (64, 128), (128, 128), (224, 224), (512, 170)])
def test_an_animation_shows_every_frame_at_a_size_fit_for_a_page(side: int, shown: int) -> None:
    """Frames of growing brightness: all there, in their order, and not larger than a page or a database bears."""
    noise = np.random.default_rng(0).integers(-20, 20, (5, 4, side, side))
    frames = np.clip(np.arange(40, 240, 40)[:, None, None, None] + noise, 0, 255).astype(np.uint8)
    made = animation(frames)
    picture = Image.open(io.BytesIO(made))
    assert picture.size == (4 * shown, shown)
    assert picture.n_frames == 5  # type: ignore[attr-defined]
    levels = []
    for index in range(5):
        picture.seek(index)
        levels.append(np.asarray(picture.convert("L")).mean())
    np.testing.assert_allclose(levels, np.arange(40, 240, 40), atol=2)  # a palette of 256 colours
    assert len(made) < 2e6
