"""Association by design: each level's share of the variance is tied to the image, and nothing else moves with it."""

import numpy as np
import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.design.association import (
    AssociationSums,
    associate,
    draw_latents,
    linked_effects,
    scale_effects,
)

LEVELS = (1.0, 0.5, 0.1, 0.0526, 0.02)
N, IDS = 80_000, np.arange(80_000)
IDENTITY, CORRELATED = np.eye(3), np.array([[0.5, 0.2, 0.0], [0.2, 0.3, -0.1], [0.0, -0.1, 0.8]])


@pytest.fixture(scope="module")
def linked() -> np.ndarray:
    return linked_effects(draw_latents(1, IDS, 6), (4, 0, 2))


def used_at(linked: np.ndarray, level: float, omega: np.ndarray = IDENTITY) -> np.ndarray:
    return associate(linked, level, omega=omega, seed=1, ids=IDS[: len(linked)])


def explained(linked: np.ndarray, used: np.ndarray) -> np.ndarray:
    return np.array([np.corrcoef(linked[:, i], used[:, i])[0, 1] ** 2 for i in range(linked.shape[1])])


@pytest.mark.parametrize("omega", [IDENTITY, CORRELATED], ids=["independent", "correlated"])
@pytest.mark.parametrize("level", LEVELS)
def test_the_image_explains_the_designed_share_and_the_covariance_stays(
    linked: np.ndarray, level: float, omega: np.ndarray
) -> None:
    """R² within 0.01: four standard errors 2ρ(1-ρ²)/√n at level 0.5, more at the others."""
    effects = scale_effects(linked, omega)
    used = used_at(effects, level, omega)
    np.testing.assert_allclose(explained(effects, used), level, atol=0.01)
    # Four standard errors of a variance, √(2/n) = 0.005, and more of a covariance.
    np.testing.assert_allclose(np.cov(used.T), omega, atol=0.02)


def test_level_1_is_exactly_the_linked_effects(linked: np.ndarray) -> None:
    used = used_at(linked, 1.0)
    np.testing.assert_array_equal(used, linked)
    used[:] = 0
    assert linked.any(), "the result must not share memory with its argument"


def test_each_level_has_independent_noise(linked: np.ndarray) -> None:
    noise = [(used_at(linked, level) - np.sqrt(level) * linked) / np.sqrt(1 - level) for level in LEVELS[1:]]
    correlations = np.corrcoef(np.concatenate(noise, axis=1).T)
    # Four standard errors of a correlation of 80,000 pairs, 4/√80,000.
    assert np.abs(correlations - np.eye(len(correlations))).max() < 0.0142


def test_a_subject_is_the_same_in_every_shard(linked: np.ndarray) -> None:
    """Bit for bit: latents, linked effects and used effects, with Ω = I and without."""
    for omega in (IDENTITY, CORRELATED):
        whole = used_at(scale_effects(linked, omega), 0.1, omega)
        for rows in (IDS[:1], IDS[5:12], IDS[[19_999, 3, 3]], IDS[::-1]):
            part = scale_effects(linked_effects(draw_latents(1, rows, 6), (4, 0, 2)), omega)
            np.testing.assert_array_equal(associate(part, 0.1, omega=omega, seed=1, ids=rows), whole[rows])


def test_latents_are_standard_normal_and_longer_ones_begin_alike() -> None:
    latents = draw_latents(3, IDS, 8)
    assert (latents.dtype, latents.shape) == (np.float32, (N, 8))
    np.testing.assert_allclose(np.cov(latents.T), np.eye(8), atol=0.02)  # four standard errors
    np.testing.assert_array_equal(draw_latents(3, IDS, 5), latents[:, :5])


def test_impossible_levels_and_dimensions_are_refused(linked: np.ndarray) -> None:
    for level in (0.0, -0.5, 1.0001, float("nan")):
        with pytest.raises(ConfigError, match="expected 0 < level ≤ 1; got"):
            used_at(linked, level)
    for dimensions in ((6,), (0, -1)):
        with pytest.raises(ConfigError, match="dimensions from 0 to 5"):
            linked_effects(np.zeros((2, 6), np.float32), dimensions)


def test_sums_over_shards_add_up_to_the_regression_r_squared(linked: np.ndarray) -> None:
    used, total = used_at(linked, 0.5), AssociationSums(0, (0.0,) * 5)
    for start in range(0, N, 3_000):
        total = total + AssociationSums.of(linked[start : start + 3_000, 0], used[start : start + 3_000, 0])
    assert total.n == N
    value, low, high = total.r_squared()
    assert value == pytest.approx(explained(linked, used)[0], rel=1e-10)  # cancellation costs a few of 16 digits
    assert low < value < high


@pytest.mark.parametrize("level", [0.5, 0.02])
def test_the_interval_holds_the_designed_share_in_19_of_20_data_sets(linked: np.ndarray, level: float) -> None:
    """Of 1,200 data sets (400 pieces of 200 subjects, three effects) 1,140 ± 7.5 should: within 5 standard errors."""
    used, inside = used_at(linked, level), 0
    for rows in np.split(IDS, 400):
        for i in range(3):
            _, low, high = AssociationSums.of(linked[rows, i], used[rows, i]).r_squared()
            inside += low <= level <= high
    assert 1102 <= inside <= 1178


def test_the_interval_where_the_association_is_exact_absent_or_undefined(linked: np.ndarray) -> None:
    x, y = linked[:, 0], linked[:, 1]
    assert AssociationSums.of(x, x).r_squared() == (1.0, 1.0, 1.0)
    value, low, high = AssociationSums.of(x, y).r_squared()
    assert value < 2e-4  # (4/√80,000)²
    assert low == 0
    assert high < 0.0005
    for few in range(4):
        assert np.isnan(AssociationSums.of(x[:few], y[:few]).r_squared()).all()
    assert np.isnan(AssociationSums.of(np.ones(9), x[:9]).r_squared()).all()
