"""g as a file, and predictions by it."""

from pathlib import Path

import numpy as np
import pytest

from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.image_effects.fitting import fit_image_effects
from image_longitudinal.models.image_effects.linear_head import LinearHead, LinearLearner
from image_longitudinal.models.image_effects.network_head import NetworkHead, NetworkLearner
from image_longitudinal.models.image_effects.prediction import by_prior, with_visits
from image_longitudinal.models.image_effects.predictor import ImagePredictor
from image_longitudinal.models.image_effects.subject_images import PrincipalComponents, SubjectImages
from tests.models.image_effects.conftest import MODEL, r2, trial
from tests.models.image_effects.test_network_head import targets

OMEGA, EFFECTS = 0.1 * np.eye(2), ("eta_cl", "eta_v")


@pytest.mark.parametrize("kind", ["linear", "mlp", "cnn"])
def test_a_predictor_is_read_as_it_was_written(kind: str, tmp_path: Path) -> None:
    people = trial()
    images = SubjectImages.of(people.images[:60])
    reader = PrincipalComponents.of(images) if kind != "cnn" else None
    inputs = reader(images) if reader else images
    known = targets(people.features[:60, :2])
    if kind == "linear":
        head = LinearLearner(reader(images)).cross_fit(known).head  # type: ignore[misc]
    else:
        head = NetworkLearner(inputs, epochs=2).cross_fit(known).head
    assert isinstance(head, LinearHead | NetworkHead)
    predictor = ImagePredictor(reader, head, OMEGA, OMEGA, EFFECTS, None, (16, 16), "focei")
    predictor.save(tmp_path / "g.safetensors")
    read = ImagePredictor.load(tmp_path / "g.safetensors")
    others = SubjectImages.of(people.images[60:])
    np.testing.assert_array_equal(read(others), predictor(others))
    assert (read.effects, read.size, read.by) == (EFFECTS, (16, 16), "focei")


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    with pytest.raises(ModelError, match="missing"):
        ImagePredictor.load(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="damaged"):
        ImagePredictor.load(path)


def test_visits_add_to_what_an_image_says() -> None:
    """Random effects by image, by one to four visits, by both: the last is nearest, and knows that it is."""
    people, n = trial(), 120
    learner = LinearLearner(people.features[:n])
    found = fit_image_effects(MODEL, people.data.subset(0, n), learner)
    data, truth = people.data.subset(n, 160), people.eta[n:]
    mean = found.head(people.features[n:])
    image = by_prior(MODEL, mean, found.omega)
    visits = with_visits(MODEL, data, np.zeros_like(mean), found.total)
    both = with_visits(MODEL, data, mean, found.omega)
    fits = {name: r2(truth, own.eta).mean() for name, own in (("image", image), ("visits", visits), ("both", both))}
    assert fits["both"] > max(fits["image"], fits["visits"])
    assert (both.sd <= image.sd + 1e-9).all()
    np.testing.assert_allclose(image.parameters[:, 1], 2.0 * np.exp(mean[:, 1]))
