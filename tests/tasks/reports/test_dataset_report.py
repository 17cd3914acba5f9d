"""The report's figures: designed beside achieved association, added up over the parts of a data set."""

from types import SimpleNamespace

import numpy as np

from image_longitudinal.core.readability import Readability
from image_longitudinal.storage.dataset.card_quality import readable_rows
from image_longitudinal.tasks.engine.progress import artifact_key
from image_longitudinal.tasks.reports.dataset_report import achieved_association, association_rows


def test_rows_compare_designed_and_achieved() -> None:
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, 5000))
    half = np.sqrt(0.5) * (x + noise)
    linked, used = np.stack([x, x], 1), {1.0: np.stack([x, half], 1), 0.5: np.stack([half, noise], 1)}
    manifest = SimpleNamespace(
        random_effects=("Ka", "Imax"), present_splits=("train", "test"), designed=lambda level: (level, level)
    )
    dataset = SimpleNamespace(
        levels=(1.0, 0.5), manifest=manifest, runs={"train": [(0, 2000), (2000, 3500)], "test": [(3500, 5000)]}.get,
        linked_eta=linked, used_eta=used.get,
    )  # fmt: skip
    achieved = achieved_association(dataset)  # type: ignore[arg-type]
    assert {sums.n for level in achieved.values() for sums in level} == {5000}
    rows = association_rows(achieved, manifest)  # type: ignore[arg-type]
    assert [(row["designed"], row["random effect"], row["inside"]) for row in rows] == [
        (1.0, "Ka", True),
        (1.0, "Imax", False),
        (0.5, "Ka", True),
        (0.5, "Imax", False),
    ]
    assert rows[0]["achieved"] == rows[0]["low"] == rows[0]["high"] == 1
    assert rows[2]["low"] < rows[2]["achieved"] < rows[2]["high"]


def test_names_become_artifact_keys() -> None:
    assert artifact_key("Train VAE: 3/4 ") == "train-vae-3-4"


def test_what_is_read_is_beside_what_was_designed_of_this_effect() -> None:
    """A study design gives effects their own association: the level of the data set says nothing of them."""
    found = Readability(read_by="regression", images=128, finished=True, eta=(0.9, 0.8))
    manifest = SimpleNamespace(
        readability=found, random_effects=("Ka", "Imax"), levels=(0.5,), designed=lambda level: (0.0, 0.25)
    )
    rows = readable_rows(manifest)  # type: ignore[arg-type]
    assert [(row["designed"], row["read from images"]) for row in rows] == [(0.0, 0.0), (0.25, 0.2)]
