"""What a judge from outside found of a set of generated images, each figure beside what real scans give."""

from image_longitudinal.core.config import Section


class Judge(Section):
    """The feature network that judged: distances of two models compare only if its ``digest`` is the same."""

    name: str
    digest: str


class Interval(Section):
    """A figure with an interval that covers 95 % of what other patients and other images would give."""

    value: float
    low: float
    high: float


class Figure(Interval):
    """A measure of generated against held-out images.

    ``null`` is its mean when real scans of other patients take the place of generated images, in sets of the same size;
    ``null_low`` to ``null_high`` holds 95 % of such sets.
    """

    null: float
    null_low: float
    null_high: float


class SetMeasures(Section):
    """Generated images as a set, against as many held-out ones.

    ``frechet``: Fréchet distance in 32 principal components of the features, in floors: 1 is the mean of real scans
    of other patients. ``frechet_to_one_floor``: the same, in units of the distance of one such set, the training
    images. ``kernel``: unbiased squared kernel distance ("KID") of standardised features. ``precision``, ``recall``
    (Kynkäänniemi et al. 2019), ``density``, ``coverage`` (Naeem et al. 2020): higher is better. ``classifier_auc``:
    area under the curve of a classifier that tells the two apart, cross-fitted; 0.5 is chance. ``near_copies``: share
    of images that are nearer to a training image than 95 % of held-out images are. ``grey_levels``: Wasserstein
    distance of all pixels' grey levels (0 to 255). ``thickness_map``: Wasserstein distance of retinal thickness in
    eight parts of the width, averaged, in standard deviations of real scans.
    """

    frechet: Figure
    frechet_to_one_floor: float
    kernel: Figure
    precision: Figure
    recall: Figure
    density: Figure
    coverage: Figure
    classifier_auc: Figure
    near_copies: Figure
    grey_levels: Figure
    thickness_map: Figure


class PropertyFigures(Section):
    """One property of single images, see :mod:`models.quality.judge.properties`: means, their ratio, and distributions.

    ``distance``: Wasserstein distance of the property's distributions, in standard deviations of real scans.
    """

    name: str
    generated: Interval
    real: Interval
    ratio: Interval
    distance: Figure


class ClassShare(Section):
    """Share of a class among generated and among held-out images, and their difference, by the same classifier."""

    label: str
    generated: Interval
    real: Interval
    difference: Interval


class PathologyFigures(Section):
    """Shares of the classes by a classifier trained on real scans; ``accuracy`` on patients that it has not seen."""

    accuracy: float
    shares: tuple[ClassShare, ...]


class PatientDistances(Section):
    """Whether generated images come nearer to single patients of the training scans than scans of other patients do.

    Of each of ``patients``, the distance of the nearest image to any of their scans, in 32 principal components of the
    features. ``nearer``: share of patients to whom a generated image is nearer than any of as many scans of other
    patients. ``least_ratio``: the smallest of the quotients of both distances.
    """

    patients: int
    nearer: Figure
    least_ratio: Figure


class MethodAccuracy(Section):
    """Balanced accuracy of one method by what it was trained and tested on, see :mod:`models.quality.judge.utility`.

    ``real``: training scans, tested on held-out ones. ``trained_on_generated``: generated images, tested on held-out
    scans. ``tested_on_generated``: held-out scans, tested on generated images. ``within_generated``: one half of the
    generated images, tested on the other.
    """

    name: str
    real: Interval
    trained_on_generated: Interval
    tested_on_generated: Interval
    within_generated: Interval


class ClassRecall(Section):
    """Share of a class's held-out scans that logistic regression finds, trained on real and on generated images."""

    label: str
    real: Interval
    trained_on_generated: Interval


class UtilityFigures(Section):
    """What generated images are good for, where the task is to name the class of a scan.

    ``rank_agreement``: Kendall's tau, -1 to 1, of the order of the methods on real and within generated images. The
    calibration errors are those of logistic regression on held-out scans, trained on real and on generated images.
    """

    methods: tuple[MethodAccuracy, ...]
    rank_agreement: float
    calibration_error_real: float
    calibration_error_generated: float
    recalls: tuple[ClassRecall, ...]


class Judgement(Section):
    """All that a judge found, with ``n`` images in each set; ``pathology`` is None without classes of real images.

    ``training_patients`` and ``utility`` are None in older records, ``utility`` also without classes.
    """

    judge: Judge
    n: int
    measures: SetMeasures
    properties: tuple[PropertyFigures, ...]
    pathology: PathologyFigures | None
    training_patients: PatientDistances | None = None
    utility: UtilityFigures | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """The figures that versions are compared by, as :attr:`models.registry.metadata.ModelMetadata.metrics`."""
        names = {"fd": "frechet", "kid": "kernel", "classifier_auc": "classifier_auc", "near_copies": "near_copies"}
        names |= {name: name for name in ("precision", "recall", "density", "coverage")}
        return {metric: getattr(self.measures, name).value for metric, name in names.items()}

    def property_named(self, name: str) -> PropertyFigures:
        """The figures of one property of single images; KeyError if there is none of that name."""
        return {one.name: one for one in self.properties}[name]
