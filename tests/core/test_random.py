"""Random streams: the published generator, bit for bit, and numbers that depend on nothing but their names."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from image_longitudinal.core import random
from image_longitudinal.core.random import normals, seeded_normals, stream_key, subject_seeds, uniforms

keys = st.integers(0, 2**64 - 1)
ids = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40)

LATENT_KEY = 1537309202934905095
UNIFORMS = [
    [0.9892176201587027, 0.7291221946130843, 0.45837386132552715],
    [0.49923490922235125, 0.1706897453464008, 0.21087843507543613],
]
NORMALS = [2.2979478104501014, 0.6101603219783172, -0.10453130991956514]
SEEDS = [5432800890044319654, 6060255283211754751]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_the_generator_is_philox_4x32_10(counter: str, key: str, expected: str) -> None:
    """The known answers that Salmon et al. ship with Random123."""
    words = random.philox4x32(tuple(int(w, 16) for w in counter.split()), tuple(int(w, 16) for w in key.split()))
    assert " ".join(f"{int(word):08x}" for word in words) == expected


@given(keys, ids, st.integers(0, 9), st.data())
def test_a_row_depends_on_its_id_alone(key: int, rows: list[int], n: int, data: st.DataObject) -> None:
    whole = uniforms(key, np.array(rows, np.uint64), n)
    order = data.draw(st.permutations(range(len(rows))))
    cut = data.draw(st.integers(0, len(rows)))
    shuffled = np.array(rows, np.uint64)[list(order)]
    pieces = np.concatenate([uniforms(key, shuffled[:cut], n), uniforms(key, shuffled[cut:], n)])
    np.testing.assert_array_equal(pieces, whole[list(order)])


@given(keys, ids, st.integers(0, 9), st.integers(0, 9))
def test_fewer_numbers_are_the_first_of_more(key: int, rows: list[int], few: int, more: int) -> None:
    rows_array = np.array(rows, np.uint64)
    long = uniforms(key, rows_array, few + more)
    assert long.shape == (len(rows), few + more)
    np.testing.assert_array_equal(uniforms(key, rows_array, few), long[:, :few])


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=20))
def test_a_key_per_row_is_the_same_as_one_call_per_key(seeds: list[int]) -> None:
    together = seeded_normals(np.array(seeds), "stage", 3)
    apart = [normals(seed, [stream_key(0, "stage")], 3)[0] for seed in seeds]
    np.testing.assert_array_equal(together, apart)


def test_no_rows_give_no_numbers() -> None:
    assert uniforms(1, [], 3).shape == normals(1, np.zeros(0, int), 3).shape == (0, 3)
    assert seeded_normals(np.zeros(0, np.int64), "stage", 5).shape == (0, 5)
    assert subject_seeds(1, []).shape == (0,)


def test_uniforms_are_never_0_or_1_even_at_the_ends_of_the_generator() -> None:
    """52 bits in the middle of their cell: the ends are half a cell, 2⁻⁵³, away, and both are exact doubles."""
    words = np.array([0, 0xFFFFFFFF], np.uint64)
    low, high = random._to_unit(words, words)
    assert low == 2.0**-53
    assert high == 1 - 2.0**-53
    assert np.isfinite(normals(3, np.arange(100_000), 2)).all()


def test_uniforms_are_uniform_and_normals_normal() -> None:
    """Fixed draws, so nothing flickers; a right generator fails p > 0.001 for one seed in a thousand."""
    drawn = uniforms(stream_key(1, "a stage"), np.arange(50_000), 4)
    assert kstest(drawn.ravel(), "uniform").pvalue > 1e-3
    normal = normals(stream_key(1, "a stage"), np.arange(50_000), 4).ravel()
    assert kstest(normal, "norm").pvalue > 1e-3
    # Moments within four standard errors: 1/√n, √(2/n), √(15/n), √(96/n) for powers 1 to 4 of 200,000 normals.
    n = normal.size
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((normal**power).mean() - moment) < 4 * np.sqrt(variance / n)


def test_numbers_of_a_row_of_neighbours_and_of_other_stages_are_unrelated() -> None:
    """Correlations of 50,000 pairs stay below four standard errors, 4/√50,000 = 0.018."""
    first = normals(stream_key(1, "latent"), np.arange(50_000), 3)
    stages = ((1, "residual", 0.5), (1, "residual", 0.1), (2, "latent"))
    others = [normals(stream_key(*stage), np.arange(50_000), 1)[:, 0] for stage in stages]
    columns = [*first.T, np.roll(first[:, 0], 1), *others]  # rolled: the next subject
    correlation = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlation).max() < 4 / np.sqrt(50_000)


def test_keys_tell_seeds_stages_and_their_parts_apart() -> None:
    named = [
        (1, "latent"), (2, "latent"), (1, "latent", 1), (1, "latent", 1.0), (1, "latent", "1"), (1, "latent", 1, 1),
        (1, "latent1"), (11, "latent"), (1, "1", "latent"), (-1, "latent"),
    ]  # fmt: skip
    made = [stream_key(*name) for name in named]
    assert len(set(made)) == len(named)
    assert all(0 <= key < 2**64 for key in made)
    assert stream_key(np.int64(7), "latent") == stream_key(7, "latent")


def test_subject_seeds_are_distinct_and_fit_a_signed_integer() -> None:
    seeds = subject_seeds(1, np.arange(200_000))
    assert seeds.dtype == np.int64
    assert seeds.min() >= 0
    assert len(np.unique(seeds)) == len(seeds)  # 63 bits: a collision among these has probability 2·10⁻⁹
    np.testing.assert_array_equal(subject_seeds(1, [5, 199_999, 0]), seeds[[5, 199_999, 0]])
    assert (subject_seeds(2, np.arange(100)) != seeds[:100]).all()


def test_published_numbers_never_change() -> None:
    """Every data set ever made hangs on these; ndtri may differ between processors in the last bits."""
    assert stream_key(1, "latent") == LATENT_KEY
    np.testing.assert_array_equal(uniforms(LATENT_KEY, [0, 2**40], 3), UNIFORMS)
    np.testing.assert_allclose(normals(LATENT_KEY, [0], 3)[0], NORMALS, rtol=1e-14)
    assert subject_seeds(1, [0, 1_099_999]).tolist() == SEEDS
