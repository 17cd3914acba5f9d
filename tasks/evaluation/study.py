"""Evaluation of a study design: estimators of the mean effect, learners of individual effects, probes of sites.

Every row stands beside its oracle. Predictors see images, arms and outcomes of training subjects; the truth is read for
the true propensity of the estimators that are given it, and for the scores of test subjects.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.config import EvaluationConfig
from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.presets import validate_config
from image_longitudinal.models.design.functionals import summarise
from image_longitudinal.models.design.quadrature import CausalDesign, causal_design, conditional_effects
from image_longitudinal.models.design.study import StudyDesign, design_study
from image_longitudinal.models.evaluation.bootstrap import Estimate, Resampling
from image_longitudinal.models.evaluation.causal import Treated, learn_effects, mean_effects
from image_longitudinal.models.evaluation.pca_regressor import (
    Chunk,
    PCARegressor,
    fit_pca_regressor,
    polynomial,
    readable,
)
from image_longitudinal.models.evaluation.site_probe import acquisition_features, probe_auc
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.tasks.evaluation import data
from image_longitudinal.tasks.evaluation.checks import FEWEST, check_visits
from image_longitudinal.tasks.evaluation.tables import Table

FloatArray = NDArray[np.float64]
TABLES = ("mean-effects", "individual-effects", "sites")
MEAN_COLUMNS = ("association", "arm", "estimator", "estimate", "standard error", "designed effect", "error / SE")
EFFECT_COLUMNS = (
    "association", "arm", "predictor", "R²", "share of the oracle's R²", "calibration slope", "policy gain",
    "share of the oracle's gain",
)  # fmt: skip
PRODUCTS = 16  # latent dimensions read from images that also enter by their products


class StudySplit(NamedTuple):
    """Subjects of one split: ids (n,), image features (n, F), arm (n,)."""

    ids: NDArray[np.int64]
    features: NDArray[np.float32]
    arm: NDArray[np.int64]


def evaluate_study(
    dataset: Dataset, *, replicates: int = 1000, settings: EvaluationConfig | None = None
) -> list[Table]:
    """The tables of a data set with a study design: mean effects, individual effects, sites; those that it has.

    Args:
        dataset: an open data set; the outcomes' visits must be regular.
        replicates: bootstrap resamples behind the intervals of individual effects.
        settings: ``evaluation.components`` and ``products`` of the regressor that reads images.

    Raises:
        StorageError: it has no study design with arms or sites, too few subjects, or irregular visits.
    """
    info, chosen = dataset.manifest.study, settings or EvaluationConfig()
    if info is None or (len(info.arms) < 2 and not info.sites):
        do = "generate one with --preset trial, observational or sites"
        raise StorageError("this data set has no arms and no sites to evaluate", where=dataset.root.url, do=do)
    check_visits(dataset)
    for split, fewest in FEWEST.items():
        if (count := dataset.manifest.splits.get(split, 0)) < fewest:
            raise StorageError(f"too few {split} subjects", where=dataset.root.url, expected=f"{fewest}", got=count)
    tables = []
    if len(info.arms) > 1:
        reader = fit_pca_regressor(
            lambda: data.image_chunks(dataset, "train"), components=chosen.components, products=chosen.products
        )
        read = {split: _read_split(dataset, split, reader) for split in FEWEST}
        told = readable(read["train"], np.concatenate([z for _, _, z in _latents(dataset, "train")]))
        splits = {split: _study_split(dataset, split, values[:, told]) for split, values in read.items()}
        tables += _effect_tables(dataset, splits, replicates)
    if info.sites:
        tables.append(site_table(dataset))
    return tables


def _read_split(dataset: Dataset, split: str, reader: PCARegressor) -> FloatArray:
    """Latent dimensions read from images; of training subjects by fits without them."""
    return np.concatenate([
        reader.out_of_fold(images, ids) if split == "train" else reader(images)
        for ids, images, _ in data.image_chunks(dataset, split)
    ])  # fmt: skip


def _study_split(dataset: Dataset, split: str, read: FloatArray) -> StudySplit:
    """Subjects with what is read from their images, with squares and products of the first."""
    arm = dataset.subjects(split, columns=["arm"])["arm"].to_numpy().astype(np.int64)
    return StudySplit(data.split_ids(dataset, split), polynomial(read, PRODUCTS).astype(np.float32), arm)


def design_of(dataset: Dataset, level: float) -> StudyDesign:
    """The design behind one association level of a data set."""
    manifest = dataset.manifest
    assert manifest.study is not None, "a data set with a study design"
    config = validate_config(manifest.config, where=manifest.name)
    dims = manifest.study.eta_dims
    return design_study(config.study, config.outcomes, config.seed, level, manifest.image.latent_dim, dims)


def _effect_tables(dataset: Dataset, splits: dict[str, StudySplit], replicates: int) -> list[Table]:
    info = dataset.manifest.study
    assert info is not None, "checked before"
    means, single = [], []
    for level in dataset.levels:
        design, observed = design_of(dataset, level), data.outcomes(dataset, level, "train").astype(np.float64)
        outcome = summarise(observed, dataset.manifest.times)[info.functional]
        designed = causal_design(design)
        for number in range(1, len(info.arms)):
            place = (f"{level:g}", info.arms[number].name)
            treated = _treated(dataset, splits["train"], outcome, number)
            for one in mean_effects(treated):
                means.append((*place, one.estimator, *_mean_cells(one.value, one.error, designed[number])))
            truth = true_effects(dataset, level, "test")
            latents = np.concatenate([z for _, _, z in _latents(dataset, "test")])
            learned = {"oracle E[effect | z]": conditional_effects(design, latents, number)}
            learned |= learn_effects(treated, splits["test"].features)
            resampling = Resampling(len(latents), dataset.manifest.seed, replicates)
            scores = score_effects(learned, truth[:, [0, number]], resampling)
            single += [(*place, *row) for row in scores]
    about = f"{info.functional}, against {info.arms[0].name}"
    return [
        Table("mean-effects", f"Mean effect on {about}", MEAN_COLUMNS, means),
        Table("individual-effects", f"Individual effects on {about}, on test subjects", EFFECT_COLUMNS, single),
    ]


def _treated(dataset: Dataset, split: StudySplit, outcome: FloatArray, number: int) -> Treated:
    """Training subjects of an arm and of the first; the propensity is that within these two arms."""
    info = dataset.manifest.study
    assert info is not None, "checked before"
    names = [f"propensity_{info.arms[i].name}" for i in (0, number)]
    table = dataset.truth("propensity", None, "train", columns=names)
    first, own = (table[name].to_numpy() for name in names)
    rows = np.isin(split.arm, (0, number))
    probability = (own / (first + own))[rows]
    return Treated(split.ids[rows], split.features[rows], split.arm[rows] == number, outcome[rows], probability)


def true_effects(dataset: Dataset, level: float, split: str) -> FloatArray:
    """The study's functional of a split's subjects under every arm, (n, A), noise-free."""
    info = dataset.manifest.study
    assert info is not None, "a data set with a study design"
    values = dataset.truth("effects", level, split, columns=[info.functional])[info.functional].to_numpy()
    return values.reshape(-1, len(info.arms))


def score_effects(
    predicted: dict[str, FloatArray], truth: FloatArray, resampling: Resampling
) -> list[tuple[str, str, str, str, str, str]]:
    """Rows of predicted individual effects (n,) by name, the first of which is the oracle; truth (n, 2) by arm.

    R² = 1 - mean square error / variance of the true effects. A policy treats those with a predicted effect above 0.
    """
    effect = truth[:, 1] - truth[:, 0]
    oracle: tuple[Estimate, Estimate] | None = None
    rows = []
    for name, values in predicted.items():
        columns = np.column_stack([
            (effect - values) ** 2, effect, effect**2, np.where(values > 0, truth[:, 1], truth[:, 0]), truth[:, 0],
            truth[:, 1], values, values**2, values * effect,
        ])  # fmt: skip
        drawn = resampling.of(columns)
        r2 = drawn.estimate(lambda m: 1 - m[..., 0] / (m[..., 2] - m[..., 1] ** 2), [0, 1, 2])
        gain = drawn.estimate(lambda m: m[..., 0] - np.maximum(m[..., 1], m[..., 2]), [3, 4, 5])
        slope = drawn.estimate(
            lambda m: (m[..., 3] - m[..., 0] * m[..., 1]) / np.maximum(m[..., 2] - m[..., 1] ** 2, 1e-300), [1, 6, 7, 8]
        )
        if oracle is None:
            oracle = r2, gain
        shares = [_share(one, best) for one, best in zip((r2, gain), oracle, strict=True)]
        rows.append((name, _interval(r2), shares[0], _interval(slope), _interval(gain), shares[1]))
    return rows


def site_table(dataset: Dataset) -> Table:
    """How well images tell the site, and how well z is read at the site that a reader was fitted at, and elsewhere."""
    info = dataset.manifest.study
    assert info is not None, "checked before"
    sites, features = {}, {}
    for split in FEWEST:
        sites[split] = dataset.subjects(split, columns=["site"])["site"].to_numpy()
        features[split] = np.concatenate([acquisition_features(x) for _, x, _ in data.image_chunks(dataset, split)])
    rows = []
    for number, site in enumerate(info.sites):
        here = {split: sites[split] == number for split in FEWEST}
        auc = probe_auc(features["train"], here["train"], features["test"], here["test"])
        inside, outside = (
            _read_at(dataset, number, here["test"]) if here["train"].sum() >= FEWEST["train"] else (None,) * 2
        )
        text = f"{auc[0]:.3f} [{auc[1]:.3f}, {auc[2]:.3f}]"
        rows.append((site.name, f"{site.strength:g}", text, _r2_text(inside), _r2_text(outside)))
    columns = ("site", "strength", "AUC of a probe for the site", "R² of z read in the site", "R² of z read elsewhere")
    return Table("sites", "What images tell of their site, and a reader fitted to one site alone", columns, rows)


def _read_at(dataset: Dataset, number: int, here: NDArray[np.bool_]) -> tuple[float, float]:
    """R² of the random effects' latent dimensions read from test images in a site and elsewhere, fitted at the site."""
    info = dataset.manifest.study
    assert info is not None, "checked before"
    reader = fit_pca_regressor(lambda: _of_site(dataset, number))
    read = np.concatenate([reader(images) for _, images, _ in data.image_chunks(dataset, "test")])[
        :, list(info.eta_dims)
    ]
    z = np.concatenate([z for _, _, z in data.image_chunks(dataset, "test")])[:, list(info.eta_dims)].astype(np.float64)
    found = [
        1 - np.square(z[rows] - read[rows]).sum() / np.square(z[rows] - z[rows].mean(0)).sum() for rows in (here, ~here)
    ]
    return float(found[0]), float(found[1])


def _of_site(dataset: Dataset, number: int) -> Iterator[Chunk]:
    """Training subjects of one site."""
    for ids, images, latents in data.image_chunks(dataset, "train"):
        site = dataset.columns("subjects", None, int(ids[0]), int(ids[-1]) + 1, ["site"])[:, 0]
        rows = site == number
        if rows.any():
            yield ids[rows], images[rows], latents[rows]


def _latents(dataset: Dataset, split: str) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    for start, stop in data.id_ranges(dataset, split, 20 * data.ROWS):
        yield start, stop, dataset.latents[start:stop]


def _mean_cells(value: float, error: float, designed: CausalDesign) -> tuple[str, str, str, str]:
    return (f"{value:.4f}", f"{error:.4f}", f"{designed.effect:.4f}", f"{(value - designed.effect) / error:+.2f}")


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"


def _share(one: Estimate, best: Estimate) -> str:
    """In percent of the oracle's, where that is surely above 0."""
    return f"{100 * one.value / best.value:.0f} %" if best.low > 0 else "–"


def _r2_text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
