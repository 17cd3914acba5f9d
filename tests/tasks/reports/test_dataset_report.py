"""The report's figures: streams of tables cut into equal pieces, and designed beside achieved association."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from image_longitudinal.models.design.association import AssociationSums
from image_longitudinal.tasks.engine.progress import artifact_key
from image_longitudinal.tasks.reports.dataset_report import _aligned, association_rows


def batches(values: np.ndarray, sizes: list[int]) -> list[pa.RecordBatch]:
    ends = np.cumsum(sizes)
    return [pa.record_batch({"eta_1": part, "eta_2": -part}) for part in np.split(values, ends[ends < len(values)])]


sizes = st.lists(st.integers(0, 7), max_size=12)


@given(st.integers(0, 30), sizes, sizes)
def test_streams_cut_differently_are_cut_alike(n: int, first: list[int], second: list[int]) -> None:
    left, right = np.arange(n, dtype=float), 100.0 + np.arange(n)
    pieces = list(_aligned(iter(batches(left, first)), iter(batches(right, second))))
    assert all(a.shape == b.shape and len(a) for a, b in pieces)
    joined = [np.concatenate([piece[side] for piece in pieces]) if pieces else np.empty((0, 2)) for side in (0, 1)]
    np.testing.assert_array_equal(joined[0], np.stack([left, -left], axis=1))
    np.testing.assert_array_equal(joined[1], np.stack([right, -right], axis=1))


def test_rows_compare_designed_and_achieved() -> None:
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, 5000))
    half = np.sqrt(0.5) * (x + noise)
    achieved = {
        1.0: [AssociationSums.of(x, x), AssociationSums.of(x, half)],
        0.5: [AssociationSums.of(x, half), AssociationSums.of(x, noise)],
    }
    manifest = SimpleNamespace(random_effects=("Ka", "Imax"))
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
