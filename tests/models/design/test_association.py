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
N, IDS = 20_000, np.arange(20_000)
CORRELATED = np.array([[0.5, 0.2, 0.0], [0.2, 0.3, -0.1], [0.0, -0.1, 0.8]])


@pytest.fixture(scope="module")
def linked() -> np.ndarray:
    return linked_effects(draw_latents(1, IDS, 6), (4, 0, 2))


def explained(linked: np.ndarray, used: np.ndarray) -> np.ndarray:
    return np.array([np.corrcoef(linked[:, i], used[:, i])[0, 1] ** 2 for i in range(linked.shape[1])])


@pytest.mark.parametrize("level", LEVELS)
def test_the_image_explains_the_designed_share(level: float) -> None:
    """Within 0.01 for 80,000 subjects: four standard errors 2ρ(1-ρ²)/√n of R² at level 0.5, more at the others."""
    ids = np.arange(80_000)
    linked = linked_effects(draw_latents(1, ids, 6), (4, 0, 2))
    used = associate(linked, level, omega=np.eye(3), seed=1, ids=ids)
    np.testing.assert_allclose(explained(linked, used), level, atol=0.01)
    # Four standard errors of a variance, √(2/n) = 0.005, and more of a covariance.
    np.testing.assert_allclose(np.cov(used.T), np.eye(3), atol=0.02)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_20_000_subjects_show_the_designed_shares_up_to_sampling_noise(seed: int) -> None:
    """Mean over three effects within 0.01: 3.5 standard errors at level 0.5."""
    linked = linked_effects(draw_latents(seed, IDS, 3), (0, 1, 2))
    for level in LEVELS:
        used = associate(linked, level, omega=np.eye(3), seed=seed, ids=IDS)
        assert explained(linked, used).mean() == pytest.approx(level, abs=0.01)


@pytest.mark.parametrize("level", LEVELS)
def test_correlated_random_effects_keep_their_covariance(linked: np.ndarray, level: float) -> None:
    effects = scale_effects(linked, CORRELATED)
    used = associate(effects, level, omega=CORRELATED, seed=1, ids=IDS)
    np.testing.assert_allclose(np.cov(used.T), CORRELATED, atol=0.03)  # standard errors up to 0.8·√(2/20,000) = 0.008
    np.testing.assert_allclose(explained(effects, used), level, atol=0.01)


def test_level_1_is_exactly_the_linked_effects(linked: np.ndarray) -> None:
    used = associate(linked, 1.0, omega=np.eye(3), seed=1, ids=IDS)
    np.testing.assert_array_equal(used, linked)
    used[:] = 0
    assert linked.any(), "the result must not share memory with its argument"


def test_each_level_draws_noise_of_its_own(linked: np.ndarray) -> None:
    noise = {
        level: (associate(linked, level, omega=np.eye(3), seed=1, ids=IDS) - np.sqrt(level) * linked)
        / np.sqrt(1 - level)
        for level in LEVELS[1:]
    }
    together = np.concatenate(list(noise.values()), axis=1)
    # Four standard errors of a correlation of 20,000 pairs, 4/√20,000.
    assert np.abs(np.corrcoef(together.T) - np.eye(together.shape[1])).max() < 0.0283


def test_a_subject_is_the_same_in_every_shard(linked: np.ndarray) -> None:
    """Bit for bit: latents, linked effects and used effects, with Ω = I and without."""
    for omega in (np.eye(3), CORRELATED):
        whole = associate(scale_effects(linked, omega), 0.1, omega=omega, seed=1, ids=IDS)
        for rows in (IDS[:1], IDS[5:12], IDS[[19_999, 3, 3]], IDS[::-1]):
            part = scale_effects(linked_effects(draw_latents(1, rows, 6), (4, 0, 2)), omega)
            np.testing.assert_array_equal(associate(part, 0.1, omega=omega, seed=1, ids=rows), whole[rows])


def test_latents_are_standard_normal_and_longer_ones_begin_alike() -> None:
    latents = draw_latents(3, IDS, 8)
    assert latents.dtype == np.float32
    assert latents.shape == (N, 8)
    np.testing.assert_allclose(np.cov(latents.T), np.eye(8), atol=0.04)  # four standard errors
    np.testing.assert_array_equal(draw_latents(3, IDS, 5), latents[:, :5])


@pytest.mark.parametrize("level", [0.0, -0.5, 1.0001, float("nan")])
def test_impossible_levels_are_refused(linked: np.ndarray, level: float) -> None:
    with pytest.raises(ConfigError, match="expected 0 < level ≤ 1; got"):
        associate(linked, level, omega=np.eye(3), seed=1, ids=IDS)


@pytest.mark.parametrize("entries", [(6,), (0, -1)])
def test_dimensions_that_the_latent_vector_lacks_are_refused(entries: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="dimensions from 0 to 5"):
        linked_effects(np.zeros((2, 6), np.float32), entries)


def test_sums_over_shards_add_up_to_the_regression_r_squared(linked: np.ndarray) -> None:
    used = associate(linked, 0.5, omega=np.eye(3), seed=1, ids=IDS)
    total = AssociationSums(0, (0.0,) * 5)
    for start in range(0, N, 3_000):
        total = total + AssociationSums.of(linked[start : start + 3_000, 0], used[start : start + 3_000, 0])
    assert total.n == N
    value, low, high = total.r_squared()
    assert value == pytest.approx(explained(linked, used)[0], rel=1e-10)  # cancellation costs a few of 16 digits
    assert low < value < high


@pytest.mark.parametrize("level", [0.5, 0.02])
def test_the_interval_holds_the_designed_share_in_19_of_20_data_sets(linked: np.ndarray, level: float) -> None:
    """Of 300 data sets (100 pieces of 200 subjects, three effects) 285 ± 4 should: within 5 standard errors."""
    used = associate(linked, level, omega=np.eye(3), seed=1, ids=IDS)
    inside = 0
    for rows in np.split(IDS, 100):
        for i in range(3):
            _, low, high = AssociationSums.of(linked[rows, i], used[rows, i]).r_squared()
            inside += low <= level <= high
    assert 266 <= inside <= 300


def test_the_interval_has_no_width_at_level_1_and_is_undefined_for_a_handful(linked: np.ndarray) -> None:
    assert AssociationSums.of(linked[:, 0], linked[:, 0]).r_squared() == (1.0, 1.0, 1.0)
    for few in range(4):
        assert np.isnan(AssociationSums.of(linked[:few, 0], linked[:few, 1]).r_squared()).all()
    assert np.isnan(AssociationSums.of(np.ones(9), linked[:9, 0]).r_squared()).all()


def test_no_association_is_found_where_there_is_none(linked: np.ndarray) -> None:
    value, low, high = AssociationSums.of(linked[:, 0], linked[:, 1]).r_squared()
    assert value < 8e-4  # (4/√20,000)²
    assert low == 0
    assert high < 0.002
