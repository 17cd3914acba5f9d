"""Achieved numbers: sums that add up over parts, and intervals that hold the true number as often as they say."""

import numpy as np
import pytest

from image_longitudinal.models.design.achieved import AchievedRow, AUCSums, CausalSums, PairSums, ShareSums

SEEDS, N = 400, 300
BETWEEN = (0.92, 0.98)  # of 400 intervals of 95 %: three standard errors


def coverage(inside: list[bool]) -> float:
    return float(np.mean(inside))


def test_sums_of_parts_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 1000))
    parts = PairSums.of(x[:300], y[:300]) + PairSums.of(x[300:], y[300:])
    whole = PairSums.of(x, x * 0.5 + y)
    assert parts.correlation() == pytest.approx(PairSums.of(x, y).correlation(), abs=1e-12)
    assert whole.correlation()[0] == pytest.approx(np.corrcoef(x, x * 0.5 + y)[0, 1], abs=1e-12)
    assert whole.mean()[0] == pytest.approx(x.mean(), abs=1e-12)
    assert whole.sd()[0] == pytest.approx(x.std(), abs=1e-12)
    assert whole.explained()[0] == pytest.approx(np.corrcoef(x, x * 0.5 + y)[0, 1] ** 2, abs=1e-12)


@pytest.mark.parametrize("skewed", [False, True])
def test_intervals_of_correlations_hold_the_true_one_for_any_law(skewed: bool) -> None:
    """Fisher's interval without the fourth moments holds it in 70 % for the skewed law."""
    rng, inside, sds = np.random.default_rng(1), [], []
    for _ in range(SEEDS):
        x, e = rng.standard_normal((2, 3 * N))
        spread = np.sqrt((1 + x**2) / 2) if skewed else 1.0  # grows with x; the correlation stays 0.6
        y = 0.6 * x + 0.8 * e * spread
        found = PairSums.of(x, y)
        _, low, high = found.correlation()
        inside.append(low <= 0.6 <= high)
        _, low, high = found.sd()
        sds.append(low <= 1 <= high)
    assert BETWEEN[0] <= coverage(inside) <= BETWEEN[1]
    assert BETWEEN[0] <= coverage(sds) <= BETWEEN[1]


def test_a_correlation_of_zero_has_zero_in_the_interval_of_its_square() -> None:
    rng, inside = np.random.default_rng(2), []
    for _ in range(SEEDS):
        x, y = rng.standard_normal((2, N))
        inside.append(PairSums.of(x, y).explained()[1] == 0.0)
    assert BETWEEN[0] <= coverage(inside) <= BETWEEN[1]
    assert PairSums.of(x, 2 * x).correlation() == pytest.approx((1, 1, 1), abs=1e-12)


def test_intervals_of_shares_and_auc() -> None:
    rng, shares, aucs = np.random.default_rng(3), [], []
    true = 0.7602499  # Φ(1 / √2): scores one standard deviation apart
    for _ in range(SEEDS):
        values = (rng.random(N) < 0.2).astype(np.int64)
        _, low, high = (ShareSums.of(values[:100], 2) + ShareSums.of(values[100:], 2)).share(1)
        shares.append(low <= 0.2 <= high)
        treated = rng.random(N) < 0.5
        score = rng.standard_normal(N) + treated
        found = AUCSums.of(1 / (1 + np.exp(-2 * score)), treated)
        value, low, high = found.auc()
        aucs.append(low <= true <= high)
    pairs = score[treated][:, None] > score[~treated][None]
    assert value == pytest.approx(pairs.mean(), abs=2e-3)  # 4096 bins
    assert BETWEEN[0] <= coverage(shares) <= BETWEEN[1]
    assert BETWEEN[0] <= coverage(aucs) <= BETWEEN[1]


def test_bias_and_effect_with_their_intervals() -> None:
    """Treatment by the sign of a confounder: the bias is 2·E|c|·slope, known in closed form."""
    rng, effects, biases = np.random.default_rng(4), [], []
    for _ in range(SEEDS):
        c, e = rng.standard_normal((2, N))
        effect, group = 1 + 0.5 * c, (c > 0).astype(np.int64)
        outcome = 2 * c + e + group * effect
        half = N // 2
        sums = CausalSums.of(outcome[:half], effect[:half], group[:half])
        sums += CausalSums.of(outcome[half:], effect[half:], group[half:])
        _, low, high = sums.effect()
        effects.append(low <= 1 <= high)
        mean = np.sqrt(2 / np.pi)  # E[c | c > 0]
        _, low, high = sums.bias()
        biases.append(low <= 4 * mean + 0.5 * mean <= high)
    assert BETWEEN[0] <= coverage(effects) <= BETWEEN[1]
    assert BETWEEN[0] <= coverage(biases) <= BETWEEN[1]


def test_a_row_knows_whether_its_interval_holds_the_design() -> None:
    assert AchievedRow("k", "n", 0.5, 0.4, 0.3, 0.5).inside
    assert not AchievedRow("k", "n", 0.5, 0.4, 0.3, 0.49).inside
