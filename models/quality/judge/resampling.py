"""Patients drawn again: bootstrap weights of images, disjoint sets of patients, and intervals from them."""

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.registry.judgement import Figure, Interval

Vector = NDArray[np.float64]
Index = NDArray[np.int64]

REPLICATES = 200  # bootstrap samples of patients: the interval's width is then known to 5 %
SPLITS = 24  # divisions of real patients into two sets, for the null of each measure
NORMAL_95 = 1.96  # standard deviations on either side of a normal distribution's middle 95 %


def bootstrap_weights(patients: NDArray[np.str_], replicates: int, rng: np.random.Generator) -> Vector:
    """How often each image is in each bootstrap sample of patients, (replicates, n); all images of a patient together.

    ``patients`` (n,) names the patient of each image.
    """
    _, member = np.unique(patients, return_inverse=True)
    count = int(member.max()) + 1
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=replicates)
    return np.asarray(drawn[:, member], np.float64)


def disjoint_sets(patients: NDArray[np.str_], n: int, rng: np.random.Generator) -> tuple[Index, Index]:
    """Indices of two sets of at most ``n`` images whose patients differ; patients are taken in random order."""
    _, member = np.unique(patients, return_inverse=True)
    place = rng.permutation(int(member.max()) + 1)[member]
    order = np.lexsort((rng.random(len(patients)), place))  # patients one after another, their images in any order
    first = order[:n]
    rest = order[n:][place[order[n:]] != place[first[-1]]]
    return first, rest[:n]


def subset(patients: NDArray[np.str_], n: int, rng: np.random.Generator) -> Index:
    """Indices of ``n`` images of as few patients as it takes, in random order of patients."""
    return disjoint_sets(patients, n, rng)[0]


def interval(value: float, replicates: Vector, low: float = -np.inf, high: float = np.inf) -> Interval:
    """The value ± 1.96 standard deviations of its bootstrap replicates, within its bounds.

    The replicates' own percentiles would be shifted: repeated images make any set less varied than it is.
    """
    reach = NORMAL_95 * float(np.std(replicates))
    return Interval(value=value, low=max(value - reach, low), high=min(value + reach, high))


def positive_interval(value: float, replicates: Vector) -> Interval:
    """:func:`interval` of a distance or ratio, on the scale of its logarithm."""
    if value <= 0 or (replicates <= 0).any():
        return interval(value, replicates, low=0.0)
    factor = float(np.exp(NORMAL_95 * np.std(np.log(replicates))))
    return Interval(value=value, low=value / factor, high=value * factor)


def beside(found: Interval, null: Vector) -> Figure:
    """A measure beside what it is for pairs of real sets, the ``null`` (splits,)."""
    low, high = np.quantile(null, [0.025, 0.975])
    return Figure(**found.model_dump(), null=float(null.mean()), null_low=float(low), null_high=float(high))
