"""What a finished data set achieved of its design: numbers with 95 % intervals, from sums added over shards."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
NORMAL = 1.959964  # 97.5 % quantile of N(0, 1)
BINS = 4096  # of the confounder's distribution function, for an AUC
ORDERS = 5  # powers 0 to 4


@dataclass(frozen=True)
class AchievedRow:
    """One designed number and what was achieved; ``low`` and ``high``: 95 % interval."""

    knob: str
    name: str
    designed: float
    achieved: float
    low: float
    high: float

    @property
    def inside(self) -> bool:
        """Whether the interval holds the designed number."""
        return self.low - 1e-9 <= self.designed <= self.high + 1e-9


@dataclass(frozen=True, eq=False)
class PairSums:
    """Sums of x^a·y^b over subjects, a + b ≤ 4, behind means, variances and correlations; add them over shards."""

    sums: FloatArray  # (5, 5)

    @classmethod
    def of(cls, x: ArrayLike, y: ArrayLike = 0.0) -> Self:
        """Sums over subjects: x (n,) and y (n,) or one number, of the size of 1."""
        a = np.asarray(x, np.float64)
        b = np.broadcast_to(np.asarray(y, np.float64), a.shape)
        powers_a, powers_b = (np.stack([one**k for k in range(ORDERS)]) for one in (a, b))
        return cls(powers_a @ powers_b.T)

    def __add__(self, other: Self) -> Self:
        return type(self)(self.sums + other.sums)

    @property
    def n(self) -> float:
        """Number of subjects."""
        return float(self.sums[0, 0])

    def mean(self) -> tuple[float, float, float]:
        """Mean of x with its interval."""
        centred = self._central()
        half = NORMAL * float(np.sqrt(max(centred[2, 0], 0.0) / max(self.n, 1)))
        mean = float(self.sums[1, 0] / max(self.n, 1))
        return mean, mean - half, mean + half

    def sd(self) -> tuple[float, float, float]:
        """Standard deviation of x with its interval, from the fourth moment."""
        centred = self._central()
        variance = max(float(centred[2, 0]), 0.0)
        half = NORMAL * float(np.sqrt(max(centred[4, 0] - variance**2, 0.0) / max(self.n, 1)))
        low, high = max(variance - half, 0.0), variance + half
        return float(np.sqrt(variance)), float(np.sqrt(low)), float(np.sqrt(high))

    def correlation(self) -> tuple[float, float, float]:
        """Correlation with its interval: Fisher's z with the variance that the fourth moments give, for any law."""
        m = self._central()
        xx, yy = float(m[2, 0]), float(m[0, 2])
        if self.n < 4 or min(xx, yy) <= 1e-300:
            return 0.0, -1.0, 1.0
        r = float(min(max(float(m[1, 1]) / np.sqrt(xx * yy), -1.0), 1.0))
        if abs(r) > 1 - 1e-12:
            return r, r, r
        scaled = {(a, b): float(m[a, b]) / np.sqrt(xx**a * yy**b) for a, b in ((4, 0), (0, 4), (2, 2), (3, 1), (1, 3))}
        variance = scaled[2, 2] + r**2 / 4 * (scaled[4, 0] + scaled[0, 4] + 2 * scaled[2, 2])
        variance -= r * (scaled[3, 1] + scaled[1, 3])
        half = NORMAL * float(np.sqrt(max(variance, 0.0) / (self.n - 3))) / (1 - r**2)
        z = float(np.arctanh(r))
        return r, float(np.tanh(z - half)), float(np.tanh(z + half))

    def explained(self, factor: float = 1.0) -> tuple[float, float, float]:
        """Squared correlation over ``factor``², with its interval; 0 is in it if the correlation's sign is not sure."""
        r, low, high = (value / factor for value in self.correlation())
        bounds = sorted((low**2, high**2))
        return r**2, 0.0 if low < 0 < high else bounds[0], bounds[1]

    def _central(self) -> FloatArray:
        """Central moments E[(x - mean)^a (y - mean)^b]."""
        raw = self.sums / max(self.n, 1)
        mean_x, mean_y = raw[1, 0], raw[0, 1]
        left, right = (_binomial(-mean) for mean in (mean_x, mean_y))
        return left @ raw @ right.T


def _binomial(shift: float) -> FloatArray:
    """Matrix (5, 5) of the coefficients of (x + shift)^a in powers of x."""
    out = np.zeros((ORDERS, ORDERS))
    for a in range(ORDERS):
        coefficient = 1.0
        for b in range(a, -1, -1):
            out[a, b] = coefficient
            coefficient = coefficient * b / (a - b + 1) * shift if b else 0.0
    return out


@dataclass(frozen=True, eq=False)
class ShareSums:
    """Counts of the values 0, 1, ... of a number."""

    counts: NDArray[np.int64]

    @classmethod
    def of(cls, values: NDArray[np.integer], many: int) -> Self:
        """Counts of values (n,)."""
        return cls(np.bincount(values, minlength=many))

    def __add__(self, other: Self) -> Self:
        return type(self)(self.counts + other.counts)

    def share(self, value: int) -> tuple[float, float, float]:
        """Share of a value with Wilson's interval."""
        n, p = float(self.counts.sum()), float(self.counts[value] / max(self.counts.sum(), 1))
        if not n:
            return 0.0, 0.0, 1.0
        centre, spread = p + NORMAL**2 / (2 * n), NORMAL * np.sqrt(p * (1 - p) / n + NORMAL**2 / (4 * n**2))
        scale = 1 + NORMAL**2 / n
        return p, float((centre - spread) / scale), float((centre + spread) / scale)


@dataclass(frozen=True, eq=False)
class AUCSums:
    """Counts of the propensity's distribution among the treated and the others, behind its AUC."""

    counts: FloatArray  # (2, BINS): untreated, treated

    @classmethod
    def of(cls, rank: FloatArray, treated: NDArray[np.bool_]) -> Self:
        """``rank`` (n,): any increasing function of the propensity, from 0 to 1."""
        place = np.minimum((rank * BINS).astype(np.int64), BINS - 1)
        return cls(
            np.stack([np.bincount(place[treated == flag], minlength=BINS) for flag in (False, True)]).astype(float)
        )

    def __add__(self, other: Self) -> Self:
        return type(self)(self.counts + other.counts)

    def auc(self) -> tuple[float, float, float]:
        """AUC with the interval of DeLong et al. 1988."""
        control, case = self.counts
        n0, n1 = control.sum(), case.sum()
        if min(n0, n1) < 2:
            return 0.5, 0.0, 1.0
        of_case = (np.cumsum(control) - 0.5 * control) / n0  # share of controls below each case
        of_control = (np.cumsum(case[::-1])[::-1] - 0.5 * case) / n1
        auc = float(case @ of_case / n1)
        variance = case @ (of_case - auc) ** 2 / n1 / (n1 - 1) + control @ (of_control - auc) ** 2 / n0 / (n0 - 1)
        half = NORMAL * float(np.sqrt(variance))
        return auc, auc - half, auc + half


@dataclass(frozen=True, eq=False)
class CausalSums:
    """Sums behind the mean effect of an arm and the bias of the naive difference.

    ``sums`` (3, 6): of untreated, treated and other subjects: n, Σy, Σe, Σy², Σe², Σye, with the outcome y under the
    arm taken and the individual effect e.
    """

    sums: FloatArray

    @classmethod
    def of(cls, outcome: FloatArray, effect: FloatArray, group: NDArray[np.integer]) -> Self:
        """Outcome (n,), effect (n,), and group (n,): 0 untreated, 1 treated, 2 in another arm."""
        terms = np.stack([np.ones_like(outcome), outcome, effect, outcome**2, effect**2, outcome * effect])
        return cls(np.stack([terms[:, group == one].sum(1) for one in range(3)]))

    def __add__(self, other: Self) -> Self:
        return type(self)(self.sums + other.sums)

    def effect(self) -> tuple[float, float, float]:
        """Mean individual effect of all subjects with its interval."""
        n, _, e, _, ee, _ = self.sums.sum(0)
        mean = float(e / n)
        half = NORMAL * float(np.sqrt(max(ee / n - mean**2, 0.0) / n))
        return mean, mean - half, mean + half

    def bias(self) -> tuple[float, float, float]:
        """Naive difference minus the mean individual effect, with its interval."""
        n, mean_effect = float(self.sums[:, 0].sum()), self.effect()[0]
        naive, variance = 0.0, 0.0
        for row, sign in zip(self.sums, (-1.0, 1.0, 0.0), strict=True):
            count, y, e, yy, ee, ye = row.tolist()
            if not count:
                continue
            weight = sign * n / count
            naive += sign * y / count
            spread_y = yy / count - (y / count) ** 2
            spread_e = ee / count - 2 * mean_effect * e / count + mean_effect**2
            both = ye / count - (y / count) * (e / count)
            variance += count / n * (weight**2 * spread_y - 2 * weight * both + spread_e)
        half = NORMAL * float(np.sqrt(max(variance, 0.0) / n))
        bias = naive - mean_effect
        return bias, bias - half, bias + half
