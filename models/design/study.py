"""A study design, resolved for one association level: every variable of a subject, in the order of evaluation.

:data:`ORDER` is a topological order of the structural causal model. Each variable has its own random stream, named
after itself, and is a function of seed, id and the variables before it that it depends on. So a knob moves its own
variable and those downstream of it, and no other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.config import OutcomesConfig
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.random import normals, stream_key
from image_longitudinal.core.study_config import Arm, ArmEffect, Covariate, StudyConfig
from image_longitudinal.models.design.arms import draw_arms, draw_blocks, draw_blocks_within
from image_longitudinal.models.design.association import (
    associate,
    associate_each,
    draw_latents,
    linked_effects,
    noise_factor,
    scale_effects,
)
from image_longitudinal.models.design.confounding import Propensity, confounder, design_propensity
from image_longitudinal.models.design.covariates import covariate_values
from image_longitudinal.models.design.names import check_names, random_parameters
from image_longitudinal.models.design.normals import LinkedNormal, linked_to, linked_to_image, unit_direction
from image_longitudinal.models.design.potential_outcomes import visits_of
from image_longitudinal.models.design.sites import SiteDraw, cut_mixture
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.model.population import PopulationModel

FloatArray = NDArray[np.float64]

ORDER = (
    "latents",  # z
    "random effects",  # η, from z and the noise of association
    "prognosis",  # a weighted sum of η
    "covariates",  # from z, from the prognosis or from nothing
    "treatment effects",  # the subjects' own effects of each arm, from z
    "confounder",  # from z and the prognosis
    "site",  # unless a shortcut ties it to the arm or the outcome
    "arm",  # randomised (within sites, if asked), or by the propensity of the confounder
    "covariates of the arm",
    "potential outcomes",  # under every arm, with the same η, residuals and visits
    "outcome",  # the potential outcome of the arm taken
    "site by shortcut",
    "image",  # generated from z, then shifted as the site acquires
)


@dataclass(frozen=True, eq=False)
class StudySubjects:
    """The variables of subjects ``ids`` (n,), before outcomes.

    ``eta`` (n, k): random effects; ``linked`` (n, k): their part from the image, at full association; ``covariates``
    (n,) by name; ``confounder`` (n,); ``propensities`` (n, A) of every arm; ``arm`` (n,); ``effects``: what arm a
    adds to a parameter, (n,) by (a, parameter).
    """

    ids: NDArray[np.int64]
    latents: NDArray[np.float32]
    linked: FloatArray
    eta: FloatArray
    covariates: Mapping[str, FloatArray]
    confounder: FloatArray | None
    propensities: FloatArray
    arm: NDArray[np.int64]
    effects: Mapping[tuple[int, str], FloatArray]


class StudyDesign:
    """The design of one data set at one association level.

    Args:
        study: the section ``study``.
        outcomes: the section ``outcomes``.
        seed: of the data set.
        level: the association level.
        latent_dim: length D of z.
        eta_dims: latent dimensions of the random effects.

    Raises:
        ConfigError: a design that cannot be had; says what can.
    """

    def __init__(
        self, study: StudyConfig, outcomes: OutcomesConfig, seed: int, level: float, latent_dim: int,
        eta_dims: tuple[int, ...],
    ) -> None:  # fmt: skip
        self.study, self.outcomes, self.seed, self.level = study, outcomes, seed, level
        self.latent_dim, self.eta_dims = latent_dim, eta_dims
        self.model: PopulationModel = get_model(outcomes.model)
        self.entries = eta_dims if study.entries == "auto" else study.entries
        if max(self.entries, default=0) >= latent_dim:
            expected = f"dimensions from 0 to {latent_dim - 1}"
            raise ConfigError("study.entries are out of range", expected=expected, got=list(self.entries))
        check_names(study, self.model)
        own = {one.effect: one.level for one in study.association}
        names = random_parameters(self.model)
        self.levels = tuple(own.get(name, level) for name in names)
        self.noise_factor = noise_factor(self.levels, self.model.omega, names)
        self.arms = study.arms or (Arm(name="all", share=1.0),)
        self.normals = {normal.name: normal for normal in (*self._covariates(), *self._effects())}
        if self.confounded:
            assignment = study.assignment
            needed = self.prognosis if assignment.prognosis or assignment.image_share else None
            direction = self._direction("confounder", assignment.direction)
            self.normals["confounder"] = confounder(
                assignment.image_share, assignment.prognosis, needed, direction, len(self.levels)
            )
            self.propensity: Propensity | None = design_propensity(assignment.auc, self.arms[1].share)
        else:
            self.propensity = None
        self.sites: SiteDraw | None = self._site_draw()

    @property
    def confounded(self) -> bool:
        """Whether the arm depends on a confounder."""
        return self.study.assignment.kind == "confounded"

    @property
    def set_by_arms(self) -> tuple[str, ...]:
        """Covariates of the longitudinal model to which arms give values."""
        return tuple(dict.fromkeys(one.name for arm in self.study.arms for one in arm.covariates))

    @cached_property
    def prognosis_weights(self) -> tuple[float, ...]:
        """Weights (k,) of the random effects in the prognosis."""
        weights = self.study.prognosis
        if weights is None:
            from image_longitudinal.models.design.quadrature import prognosis_weights

            return prognosis_weights(self)
        if len(weights) != len(self.levels) or not any(weights):
            names = ", ".join(random_parameters(self.model))
            expected = f"a weight for each of {names}, not all 0"
            raise ConfigError("unusable study.prognosis", expected=expected, got=list(weights))
        return weights

    @cached_property
    def prognosis(self) -> LinkedNormal:
        """The prognosis as a standard normal, higher where the functional is higher in the first arm."""
        vector, omega = np.asarray(self.prognosis_weights), np.asarray(self.model.omega)
        norm = np.sqrt(vector @ omega @ vector)
        return LinkedNormal("prognosis", vector @ self.image_rows() / norm, vector @ self.noise_factor / norm, 0.0)

    def image_rows(self) -> FloatArray:
        """Weights (k, D) of the latent dimensions in the random effects."""
        rows = np.zeros((len(self.levels), self.latent_dim))
        rows[:, list(self.eta_dims)] = np.sqrt(self.levels)[:, None] * np.linalg.cholesky(np.asarray(self.model.omega))
        return rows

    def treatment(self) -> list[tuple[int, ArmEffect]]:
        """Every effect of an arm on a parameter, with the arm's number."""
        return [(number, effect) for number, arm in enumerate(self.arms) for effect in arm.effects]

    def draw(self, ids: ArrayLike, latents: NDArray[np.float32] | None = None) -> StudySubjects:
        """The variables of subjects ``ids``, in :data:`ORDER`; ``latents`` (n, D) are drawn if they are not given."""
        numbers = np.atleast_1d(np.asarray(ids, np.int64))
        z = draw_latents(self.seed, numbers, self.latent_dim) if latents is None else latents
        linked = scale_effects(linked_effects(z, self.eta_dims), self.model.omega)
        eta = self._random_effects(linked, numbers)
        noise = self._noise(numbers)

        def drawn(name: str) -> FloatArray:
            return self.normals[name].draw(z, noise, self.seed, numbers)

        study = self.study
        covariates = {
            one.name: covariate_values(one, drawn(f"covariate {one.name}"))
            for one in study.covariates
            if one.linked_to != "arm"
        }
        effects = {
            (number, effect.parameter): effect.mean + effect.sd * drawn(effect_name(self.arms[number], effect))
            for number, effect in self.treatment()
        }
        confounder = drawn("confounder") if self.confounded else None
        propensities = self.propensities(confounder, len(numbers))
        arm = self._arms(propensities, numbers)
        covariates |= self._covariates_of_arm(arm, numbers)
        ordered = {one.name: covariates[one.name] for one in study.covariates}
        return StudySubjects(numbers, z, linked, eta, ordered, confounder, propensities, arm, effects)

    def draw_sites(self, subjects: StudySubjects, functional: FloatArray | None = None) -> NDArray[np.int64]:
        """The site (n,) of subjects; ``functional`` (n,): noise-free, under the arm taken, for a shortcut to it."""
        assert self.sites is not None, "only designs with sites draw them"
        linked = {"nothing": None, "arm": subjects.arm.astype(np.float64), "outcome": functional}
        return self.sites.draw(linked[self.study.shortcut.to], self.seed, subjects.ids)

    def propensities(self, confounder: FloatArray | None, n: int) -> FloatArray:
        """Probability (n, A) of every arm."""
        if confounder is None or self.propensity is None:
            return np.tile(np.array([arm.share for arm in self.arms]), (n, 1))
        treated = self.propensity(confounder)
        return np.stack([1 - treated, treated], axis=1)

    def _random_effects(self, linked: FloatArray, ids: NDArray[np.int64]) -> FloatArray:
        if not self.study.association:
            return associate(linked, self.level, omega=self.model.omega, seed=self.seed, ids=ids)
        return associate_each(linked, self.levels, level=self.level, omega=self.model.omega, seed=self.seed, ids=ids)

    def _noise(self, ids: NDArray[np.int64]) -> FloatArray:
        """The standardised noise (n, k) behind the random effects: the same numbers as in the association."""
        if not any(normal.noise.any() for normal in self.normals.values()):
            return np.zeros((len(ids), len(self.levels)))
        return normals(stream_key(self.seed, "association", float(self.level)), ids, len(self.levels))

    def _arms(self, propensities: FloatArray, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        if len(self.arms) == 1:
            return np.zeros(len(ids), np.int64)
        assignment, shares = self.study.assignment, [arm.share for arm in self.arms]
        if assignment.blocks == "site" and self.sites is not None:
            sites = self.sites
            return draw_blocks_within(
                shares, assignment.block_size, self.seed, ids, lambda members: sites.draw(None, self.seed, members)
            )
        if assignment.blocks == "all":
            return draw_blocks(shares, assignment.block_size, self.seed, ids)
        return draw_arms(np.cumsum(propensities, axis=1), self.seed, ids)

    def _covariates_of_arm(self, arm: NDArray[np.int64], ids: NDArray[np.int64]) -> dict[str, FloatArray]:
        values = {}
        for one in self.study.covariates:
            if one.linked_to == "arm":
                own = normals(stream_key(self.seed, "study", f"covariate {one.name}"), ids, 1)[:, 0]
                linked = np.sqrt(one.level) * self.standard_arms[arm] + np.sqrt(1 - one.level) * own
                cuts = None if one.kind == "continuous" else self.cuts_by_arm(one)[0]
                values[one.name] = covariate_values(one, linked, cuts)
        return values

    @cached_property
    def standard_arms(self) -> FloatArray:
        """The number of each arm (A,), scaled to mean 0 and variance 1 over subjects."""
        shares, numbers = np.array([one.share for one in self.arms]), np.arange(len(self.arms))
        mean = shares @ numbers
        return np.asarray((numbers - mean) / np.sqrt(shares @ (numbers - mean) ** 2))

    def cuts_by_arm(self, covariate: Covariate) -> tuple[tuple[float, ...], float]:
        """Thresholds of a binary or categorical covariate linked to the arm, and its number's correlation with it."""
        rho = float(np.sqrt(covariate.level))
        return cut_mixture(covariate.shares, rho, self.standard_arms, [arm.share for arm in self.arms])

    def _direction(self, name: str, given: tuple[float, ...] | None) -> FloatArray:
        return unit_direction(given, name, self.entries, self.seed, self.latent_dim)

    def _covariates(self) -> list[LinkedNormal]:
        made, k = [], len(self.levels)
        for one in self.study.covariates:
            name = f"covariate {one.name}"
            if one.linked_to == "prognosis":
                made.append(linked_to(name, one.level, self.prognosis))
            elif one.linked_to != "arm":
                share = one.level if one.linked_to == "image" else 0.0
                made.append(linked_to_image(name, share, self._direction(name, one.direction), k))
        return made

    def _effects(self) -> list[LinkedNormal]:
        return [
            linked_to_image(
                name := effect_name(self.arms[number], effect),
                effect.image_share,
                self._direction(name, effect.direction),
                len(self.levels),
            )
            for number, effect in self.treatment()
        ]

    def _site_draw(self) -> SiteDraw | None:
        from image_longitudinal.models.design.quadrature import site_draw

        return site_draw(self) if self.study.sites else None


def effect_name(arm: Arm, effect: ArmEffect) -> str:
    """The name of an arm's effect on a parameter, and of its stream."""
    return f"effect {arm.name} {effect.parameter}"


def design_study(
    study: StudyConfig, outcomes: OutcomesConfig, seed: int, level: float, latent_dim: int, eta_dims: tuple[int, ...]
) -> StudyDesign:
    """:class:`StudyDesign`, resolved once per process and content of the longitudinal model."""
    return _resolved(study, outcomes, seed, level, latent_dim, eta_dims, get_model(outcomes.model))


@lru_cache(maxsize=8)
def _resolved(
    study: StudyConfig, outcomes: OutcomesConfig, seed: int, level: float, latent_dim: int, eta_dims: tuple[int, ...],
    model: PopulationModel,
) -> StudyDesign:  # fmt: skip
    return StudyDesign(study, outcomes, seed, level, latent_dim, eta_dims)


def check_study(
    study: StudyConfig, outcomes: OutcomesConfig, seed: int, levels: tuple[float, ...], latent_dim: int,
    eta_dims: tuple[int, ...],
) -> None:  # fmt: skip
    """Check that a study can be had at every association level of a data set, with its visits.

    Raises:
        ConfigError: it cannot; says what can.
    """
    if not study.active:
        return
    if study.needs_prognosis and len(levels) > 1:
        raise ConfigError(
            "a study whose arms, covariates or sites depend on random effects needs one association level",
            where="dataset.association", expected="one level, such as [0.5]", got=list(levels),
            do="make a data set for each level, or link them to the image alone",
        )  # fmt: skip
    for level in levels:
        visits_of(design_study(study, outcomes, seed, level, latent_dim, eta_dims))
