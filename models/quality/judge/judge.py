"""The judgement of generated images: all measures, beside what real scans of other patients give in their place."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance

from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.quality.features import Matrix
from image_longitudinal.models.quality.judge.feature_measures import (
    FeatureSpace,
    WeightedSet,
    discriminate,
    frechet,
    kernel,
    neighbourhoods,
)
from image_longitudinal.models.quality.judge.networks import FeatureNetwork
from image_longitudinal.models.quality.judge.pathology import LabelledScans, class_shares
from image_longitudinal.models.quality.judge.properties import NAMES, ImageProperties, image_properties
from image_longitudinal.models.quality.judge.resampling import (
    REPLICATES,
    SPLITS,
    Index,
    Vector,
    beside,
    bootstrap_weights,
    disjoint_sets,
    interval,
    positive_interval,
    subset,
)
from image_longitudinal.models.quality.judge.utility import LabelledSet, class_utility
from image_longitudinal.models.registry.judgement import (
    Figure,
    Judge,
    Judgement,
    PatientDistances,
    PropertyFigures,
    SetMeasures,
    UtilityFigures,
)

LEAST_IMAGES = 8  # in each set
COPY_QUANTILE = 0.05  # of held-out images' distances to training images: nearer ones count as near copies


class RealScans(NamedTuple):
    """Real images uint8 (n, S, S), the patient of each (n,), and its class (n,) if that is known."""

    images: NDArray[np.uint8]
    patients: NDArray[np.str_]
    labels: Sequence[str] | None = None


class _Pool(NamedTuple):
    """Everything known of all images: generated first, then training, then held-out ones."""

    space: FeatureSpace
    seen: ImageProperties
    groups: NDArray[np.str_]


def judge_images(
    generated: NDArray[np.uint8], train: RealScans, held_out: RealScans, network: FeatureNetwork, seed: int = 0
) -> Judgement:
    """Judge generated images (m, S, S) uint8 against held-out scans, of patients that no network was trained on.

    Sets are compared at one size: that of the smallest. Real scans of other patients give the null of each measure:
    random divisions of all patients into two sets. Training scans are also those that copies are looked for among, and
    those that the classifier of diseases learns from.

    Raises:
        ModelError: there are too few images, or they differ in size.
    """
    sizes = {images.shape[1:] for images in (generated, train.images, held_out.images)}
    n = min(len(generated), len(held_out.images), len(train.images))
    if len(sizes) != 1 or n < LEAST_IMAGES:
        raise ModelError(
            "these images cannot be judged", expected=f"at least {LEAST_IMAGES} of each set, of one size",
            got=f"{len(generated)} generated, {len(train.images)} training, {len(held_out.images)} held-out images "
            f"of {', '.join(map(str, sorted(sizes)))} pixels",
        )  # fmt: skip
    rng = np.random.default_rng(seed)
    everything = np.concatenate([generated, train.images, held_out.images])
    names = np.array([f"generated {i}" for i in range(len(generated))])
    groups = np.concatenate([names, train.patients, held_out.patients]).astype(str)
    known = len(generated) + np.arange(len(train.images))
    new = len(generated) + len(known) + np.arange(len(held_out.images))
    real = np.concatenate([known, new])
    pool = _Pool(FeatureSpace.of(network.features(everything), real), image_properties(everything), groups)
    made, reference, floor = (
        chosen[subset(groups[chosen], n, rng)] for chosen in (np.arange(len(generated)), new, known)
    )
    splits = [tuple(real[part] for part in disjoint_sets(groups[real], n, rng)) for _ in range(SPLITS)]
    weights = tuple(bootstrap_weights(groups[chosen], REPLICATES, rng) for chosen in (made, reference))
    measures = _Comparison(pool, made, reference, splits, weights)
    labels = None if train.labels is None else LabelledScans(known, train.labels, train.patients)
    return Judgement(
        judge=Judge(name=network.name, digest=network.digest),
        n=n,
        measures=measures.sets(floor, known),
        properties=measures.properties(),
        pathology=None if labels is None else class_shares(pool.space, labels, made, reference, *weights),
        training_patients=measures.training_patients(known),
        utility=_utility(pool, train, held_out, seed),
    )


def _utility(pool: _Pool, train: RealScans, held_out: RealScans, seed: int) -> UtilityFigures | None:
    """Of all images of each set: methods learn more from more."""
    if train.labels is None or held_out.labels is None:
        return None
    ends = len(pool.groups) - len(held_out.images) - len(train.images), len(pool.groups) - len(held_out.images)
    made, known, new = np.split(pool.space.low, ends)
    sets = LabelledSet(known, train.labels, train.patients), LabelledSet(new, held_out.labels, held_out.patients)
    return class_utility(*sets, made, seed)


class _Comparison(NamedTuple):
    """Generated images (indices) against reference ones; ``splits``: pairs of real sets; bootstrap ``weights``."""

    pool: _Pool
    made: Index
    reference: Index
    splits: list[tuple[Index, ...]]
    weights: tuple[Matrix, ...]

    def sets(self, floor: Index, known: Index) -> SetMeasures:
        """All measures of sets; ``floor``: as many training images, ``known``: all of them."""
        space, seen = self.pool.space, self.pool.seen
        found, null = self._compared(partial(frechet, space))
        one = frechet(space, WeightedSet.of(floor), WeightedSet.of(self.reference))
        kernels, kernel_null = self._compared(partial(kernel, space))
        precision, density, recall, coverage = self._neighbourhoods()
        greys, grey_null = self._compared(partial(_histogram_transport, seen.greys.cumsum(1)))
        return SetMeasures(
            frechet=beside(positive_interval(found[0] / null.mean(), found[1:] / null.mean()), null / null.mean()),
            frechet_to_one_floor=found[0] / one,
            kernel=beside(interval(kernels[0], kernels[1:]), kernel_null),
            precision=precision, recall=recall, density=density, coverage=coverage,
            classifier_auc=self._classifier(),
            near_copies=self._near_copies(known),
            grey_levels=beside(positive_interval(greys[0], greys[1:]), grey_null),
            thickness_map=self._transport(seen.thickness),
        )  # fmt: skip

    def properties(self) -> tuple[PropertyFigures, ...]:
        """Every property of single images."""
        return tuple(self._property(name, self.pool.seen.values[:, i]) for i, name in enumerate(NAMES))

    def training_patients(self, known: Index) -> PatientDistances:
        """How near generated images come to single patients of the training scans ``known``."""
        patients, owner = np.unique(self.pool.groups[known], return_inverse=True)

        def ratios(made: Index, real: Index) -> Vector:
            """Of each patient: the distance of the nearest image of ``made`` over that of the nearest of ``real``."""
            found = []
            for images in (made, real):
                nearest_image = np.full(len(patients), np.inf)
                np.minimum.at(nearest_image, owner, self.pool.space.distance[np.ix_(known, images)].min(1))
                found.append(nearest_image)
            return np.asarray(found[0] / np.maximum(found[1], 1e-9))

        def figures(of: Vector) -> tuple[float, float]:
            return float((of < 1).mean()), float(of.min())

        drawn = zip(*self.weights, strict=True)
        repeats = np.array([figures(ratios(self.made[a > 0], self.reference[b > 0])) for a, b in drawn])
        rng, groups = np.random.default_rng(0), self.pool.groups[self.reference]
        halves = [disjoint_sets(groups, len(groups) // 2, rng) for _ in range(SPLITS)]
        null = np.array([figures(ratios(self.reference[a], self.reference[b])) for a, b in halves])
        nearer, least = figures(ratios(self.made, self.reference))
        return PatientDistances(
            patients=len(patients),
            nearer=beside(interval(nearer, repeats[:, 0], 0, 1), null[:, 0]),
            least_ratio=beside(positive_interval(least, repeats[:, 1]), null[:, 1]),
        )

    def _property(self, name: str, values: Vector) -> PropertyFigures:
        made, real = values[self.made], values[self.reference]
        of_made, of_real = _means(self.weights[0], made), _means(self.weights[1], real)
        least = 1e-3 * max(float(np.abs(real).max()), 1e-9)  # for a property that no held-out image has, such as breaks
        ratios = np.append(made.mean(), of_made) / _at_least(np.append(real.mean(), of_real), least)
        return PropertyFigures(
            name=name,
            generated=interval(float(made.mean()), of_made),
            real=interval(float(real.mean()), of_real),
            ratio=interval(float(ratios[0]), ratios[1:]),
            distance=self._transport(values[:, None]),
        )

    def _compared(self, measure: Callable[[WeightedSet, WeightedSet], float]) -> tuple[Vector, Vector]:
        """The measure of the two sets with its bootstrap replicates, (1 + replicates,), and of the real pairs."""
        weights = [(np.ones(len(self.made)), np.ones(len(self.reference))), *zip(*self.weights, strict=True)]
        found = [measure(WeightedSet(self.made, a), WeightedSet(self.reference, b)) for a, b in weights]
        return np.array(found), np.array([measure(WeightedSet.of(a), WeightedSet.of(b)) for a, b in self.splits])

    def _transport(self, values: Matrix) -> Figure:
        """Wasserstein distance of columns (n, K), in standard deviations of the real images of the splits."""
        real = np.unique(np.concatenate([part for split in self.splits for part in split]))
        found, null = self._compared(partial(_mean_transport, values / np.maximum(values[real].std(0), 1e-9)))
        return beside(positive_interval(found[0], found[1:]), null)

    def _neighbourhoods(self) -> list[Figure]:
        """Precision, density, recall and coverage; the balls stay as they are when images are drawn again."""
        terms = neighbourhoods(self.pool.space, self.made, self.reference)
        null = np.array([[t.mean() for t in neighbourhoods(self.pool.space, a, b)] for a, b in self.splits])
        bounds, drawn = (1, np.inf, 1, 1), (0, 0, 1, 1)  # of generated images the first two, of real ones the others
        return [
            beside(interval(float(term.mean()), _means(self.weights[side], term), 0, high), column)
            for term, side, high, column in zip(terms, drawn, bounds, null.T, strict=True)
        ]

    def _classifier(self) -> Figure:
        space, groups = self.pool.space, self.pool.groups
        found = discriminate(space, self.made, self.reference, groups[self.made], groups[self.reference], 0)
        whole = found.auc(np.ones(len(self.made)), np.ones(len(self.reference)))
        replicates = np.array([found.auc(a, b) for a, b in zip(*self.weights, strict=True)])
        null = [
            discriminate(space, a, b, groups[a], groups[b], i).auc(np.ones(len(a)), np.ones(len(b)))
            for i, (a, b) in enumerate(self.splits)
        ]
        return beside(interval(whole, replicates, 0, 1), np.array(null))

    def _near_copies(self, known: Index) -> Figure:
        """Distances are of flattened images or their mirror images: a copy moved to another place is found too."""
        patches = self.pool.seen.patches
        made, real = (nearest(patches[i], patches[known]) for i in (self.made, self.reference))

        def share(of: Vector, others: Vector) -> float:
            return float((of < np.quantile(others, COPY_QUANTILE)).mean())

        repeats = [
            share(np.repeat(made, a.astype(int)), np.repeat(real, b.astype(int)))
            for a, b in zip(*self.weights, strict=True)
        ]
        rng, patients = np.random.default_rng(0), self.pool.groups[self.reference]
        null = [share(*(real[part] for part in disjoint_sets(patients, len(real) // 2, rng))) for _ in range(SPLITS)]
        return beside(interval(share(made, real), np.array(repeats), 0, 1), np.array(null))


def nearest(images: Matrix, others: Matrix) -> Vector:
    """Root mean squared difference of each image (n, s, s) to its nearest among ``others`` and their mirror images."""
    flat = images.reshape(len(images), -1)
    found = np.full(len(images), np.inf)
    for view in (others, others[:, :, ::-1]):
        other = view.reshape(len(others), -1)
        squared = np.square(flat).sum(1)[:, None] + np.square(other).sum(1) - 2 * flat @ other.T
        found = np.minimum(found, squared.min(1))
    return np.asarray(np.sqrt(np.maximum(found, 0) / flat.shape[1]))


def _means(weights: Matrix, values: Vector) -> Vector:
    return np.asarray(weights @ values / weights.sum(1))


def _at_least(values: Vector, least: float) -> Vector:
    """The values, those nearer to 0 than ``least`` moved away to it."""
    return np.where(np.abs(values) < least, least, values)


def _mean_transport(values: Matrix, a: WeightedSet, b: WeightedSet) -> float:
    """Wasserstein distance of each column's distributions (n, K), averaged."""
    columns = values.T
    return float(np.mean([wasserstein_distance(x[a.rows], x[b.rows], a.weight, b.weight) for x in columns]))


def _histogram_transport(cumulative: Matrix, a: WeightedSet, b: WeightedSet) -> float:
    """Wasserstein distance of the mean histograms of two sets, from cumulative histograms (n, 256) of images."""
    first, second = (s.weight @ cumulative[s.rows] / s.weight.sum() for s in (a, b))
    return float(np.abs(first - second).sum())
