"""Numbers of a design by quadrature: a fixed quasi-random sample of the joint distribution of everything that is drawn.

The variables are jointly normal with known covariance (:mod:`models.design.normals`), so a scrambled Sobol sequence
with :data:`POINTS` points stands for all subjects: means of smooth functions have errors far below the sampling error
of any data set. It does not depend on the seed of the data set.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import qmc

from image_longitudinal.models.design.association import triangle
from image_longitudinal.models.design.covariates import covariate_values
from image_longitudinal.models.design.potential_outcomes import arm_functional, arm_parameters
from image_longitudinal.models.design.sites import SiteDraw, design_sites
from image_longitudinal.models.nlme.simulation.simulate import individual_parameters

if TYPE_CHECKING:
    from image_longitudinal.models.design.study import StudyDesign

FloatArray = NDArray[np.float64]
POINTS = 2**14
DIGITS = 9  # significant digits that are kept: rounding makes results the same on every machine


@dataclass(frozen=True)
class CausalDesign:
    """The designed numbers about an arm against the first, for the functional of the study.

    ``effect``: mean of the individual effects (ATE); ``naive``: difference of the means of those in the arms; ``sd``:
    of the individual effects.
    """

    effect: float
    naive: float
    sd: float

    @property
    def bias(self) -> float:
        """Of the naive difference."""
        return self.naive - self.effect


def causal_design(design: "StudyDesign") -> dict[int, CausalDesign]:
    """The designed effect and bias of every arm but the first."""
    points = _Points(design)
    outcome = [points.functional(number) for number in range(len(design.arms))]
    weights = design.propensities(points.normals.get("confounder"), POINTS)
    means = [float(w @ y / w.sum()) for w, y in zip(weights.T, outcome, strict=True)]
    found = {}
    for number in range(1, len(design.arms)):
        effect = outcome[number] - outcome[0]
        numbers = effect.mean(), means[number] - means[0], effect.std()
        found[number] = CausalDesign(*(float(f"{value:.{DIGITS}g}") for value in numbers))
    return found


def conditional_effects(
    design: "StudyDesign", latents: NDArray[np.float32], number: int, draws: int = 64
) -> FloatArray:
    """E[effect of an arm on the functional | z] of subjects with latents (n, D): the best that an image can tell, (n,).

    Averages over ``draws`` quasi-random points of everything that the image does not decide, the same for all subjects.
    """
    image, noise, links = design.image_rows(), design.noise_factor, list(design.normals.values())
    k, own = len(image), _standard(len(image) + len(links), draws)
    z = latents.astype(np.float64)
    of_image = z @ image.T
    linked = {link.name: z @ link.image for link in links}
    total = np.zeros(len(z))
    for point in own:
        eta = of_image + noise @ point[:k]
        values = {
            link.name: linked[link.name] + link.noise @ point[:k] + link.own * point[i]
            for i, link in enumerate(links, k)
        }
        covariates = _covariate_values(design, values)
        of_arms = [_functional(design, one, eta, values, covariates) for one in (number, 0)]
        total += of_arms[0] - of_arms[1]
    return total / draws


def prognosis_weights(design: "StudyDesign") -> tuple[float, ...]:
    """Weights of the random effects in the best linear prediction of the functional in the first arm."""
    omega = np.asarray(design.model.omega)
    eta = _sample(omega)
    parameters = individual_parameters(design.model, eta)
    own = {one.name: np.full(POINTS, covariate_values(one, np.zeros(1))[0]) for one in design.study.covariates}
    outcome = arm_functional(design, design.arms[0], parameters, own)
    slope = np.linalg.solve(np.cov(eta.T, ddof=0).reshape(omega.shape), (eta - eta.mean(0)).T @ outcome / POINTS)
    if not np.abs(slope).max() > 0:
        return (1.0,) * len(slope)
    return tuple(round(float(value), 6) for value in slope / np.abs(slope).max())


def site_draw(design: "StudyDesign") -> SiteDraw:
    """How sites are drawn, with the shortcut of the study."""
    study, shares = design.study, [site.share for site in design.study.sites]
    if study.shortcut.to == "nothing" or not study.shortcut.correlation:
        return design_sites(shares)
    if study.shortcut.to == "arm":
        numbers = np.arange(len(design.arms), dtype=np.float64)
        return design_sites(shares, study.shortcut.correlation, numbers, [arm.share for arm in design.arms])
    points = _Points(design)
    weights = design.propensities(points.normals.get("confounder"), POINTS)
    outcome = np.concatenate([points.functional(number) for number in range(len(design.arms))])
    return design_sites(shares, study.shortcut.correlation, outcome, weights.T.ravel() / POINTS)


def _standard(dimensions: int, points: int) -> FloatArray:
    """Points (points, dimensions) of N(0, I)."""
    sobol = qmc.Sobol(dimensions, seed=20240)
    return np.asarray(ndtri(np.clip(sobol.random(points), 1e-12, 1 - 1e-12)))


def _sample(covariance: FloatArray) -> FloatArray:
    """Points (POINTS, m) of N(0, covariance)."""
    return np.asarray(_standard(len(covariance), POINTS) @ triangle(covariance).T)


def _covariate_values(design: "StudyDesign", normals: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    return {
        one.name: covariate_values(one, normals[f"covariate {one.name}"])
        for one in design.study.covariates
        if one.linked_to != "arm"
    }


def _functional(
    design: "StudyDesign", number: int, eta: FloatArray, normals: Mapping[str, FloatArray],
    covariates: Mapping[str, FloatArray],
) -> FloatArray:  # fmt: skip
    """The functional (n,) under an arm, of random effects (n, k) and standard normals (n,) by name."""
    arm = design.arms[number]
    shifts = {one.parameter: one.mean + one.sd * normals[f"effect {arm.name} {one.parameter}"] for one in arm.effects}
    return arm_functional(design, arm, arm_parameters(design, eta, shifts, covariates), covariates)


class _Points:
    """The sample: random effects, and the standard normals of the design by name."""

    def __init__(self, design: "StudyDesign") -> None:
        self.design = design
        image, noise, links = design.image_rows(), design.noise_factor, list(design.normals.values())
        k = len(image)
        covariance = np.eye(k + len(links))
        covariance[:k, :k] = image @ image.T + noise @ noise.T
        for i, link in enumerate(links, k):
            covariance[i, :k] = covariance[:k, i] = image @ link.image + noise @ link.noise
            for j, other in enumerate(links[: i - k], k):
                covariance[i, j] = covariance[j, i] = link.covariance(other)
        values = _sample(covariance)
        self.eta = values[:, :k]
        self.normals = {link.name: values[:, i] for i, link in enumerate(links, k)}
        self.covariates = _covariate_values(design, self.normals)

    def functional(self, number: int) -> FloatArray:
        """The functional (POINTS,) under an arm."""
        return _functional(self.design, number, self.eta, self.normals, self.covariates)
