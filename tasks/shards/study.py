"""Tables and images of a data set with a study design (:mod:`models.design.study`), shard by shard."""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.doses import single_doses
from image_longitudinal.core.plan import Shard
from image_longitudinal.core.random import subject_seeds
from image_longitudinal.models.design.acquisition import acquisition_shift, shift_images
from image_longitudinal.models.design.potential_outcomes import PotentialOutcomes, potential_outcomes
from image_longitudinal.models.design.quadrature import causal_design
from image_longitudinal.models.design.sites import design_sites
from image_longitudinal.models.design.study import StudyDesign, StudySubjects, design_study
from image_longitudinal.models.nlme.library import get_model, load_named
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.storage.dataset import tables
from image_longitudinal.storage.dataset.layout import level_name
from image_longitudinal.storage.dataset.study_columns import EFFECTS, POTENTIAL, PROPENSITY
from image_longitudinal.storage.dataset.study_info import ArmInfo, CovariateInfo, DoseSlots, SiteInfo, StudyInfo
from image_longitudinal.storage.dataset.tables import PlannedDose
from image_longitudinal.storage.io.root import FileRecord, Root
from image_longitudinal.tasks.shards.specs import ImageSpec, OutcomeSpec, SiteSpec

DIGITS = 9  # significant digits of numbers in the manifest: rounding makes them the same on every machine


class StudyLevel(NamedTuple):
    """Subjects of a study at one association level, with their outcomes under every arm, and their sites (n,)."""

    design: StudyDesign
    subjects: StudySubjects
    potential: PotentialOutcomes
    sites: NDArray[np.int64] | None

    @property
    def own(self) -> dict[str, NDArray[Any]]:
        """The columns that a study adds to subjects."""
        arm = {"arm": self.subjects.arm} if self.design.study.arms else {}
        site = {} if self.sites is None else {"site": self.sites}
        by_arm = {}
        for name in self.design.set_by_arms:
            values = [next((one.value for one in arm.covariates if one.name == name), 0.0) for arm in self.design.arms]
            by_arm[name] = np.array(values)[self.subjects.arm]
        return {**arm, **self.subjects.covariates, **by_arm, **site}


def study_level(design: StudyDesign, ids: ArrayLike) -> StudyLevel:
    """Subjects ``ids`` of a study."""
    subjects = design.draw(ids)
    potential = potential_outcomes(design, subjects)
    sites = None
    if design.study.sites:
        rows = np.arange(len(subjects.ids))
        sites = design.draw_sites(subjects, potential.functionals[design.study.functional][subjects.arm, rows])
    return StudyLevel(design, subjects, potential, sites)


def designs_of(spec: OutcomeSpec) -> list[StudyDesign]:
    """The design at every association level; ConfigError if one cannot be had."""
    return [
        design_study(spec.study, spec.outcomes, spec.seed, level, spec.latent_dim, spec.eta_dims)
        for level in spec.association
    ]


def write_study(root: Root, spec: OutcomeSpec, info: StudyInfo) -> list[FileRecord]:
    """Write all tables of one shard of a data set with a study design."""
    shard, columns, licence = spec.shard, info.columns, spec.licence
    ids = np.arange(shard.start, shard.stop)
    slots = DoseSlots([arm.doses for arm in info.arms] or [_planned(spec.outcomes.given)])
    records: list[FileRecord] = []
    for number, design in enumerate(designs_of(spec)):
        made, level = study_level(design, ids), design.level
        subjects, potential = made.subjects, made.potential
        if number == 0:
            records += tables.write_subjects(
                root, shard, seeds=subject_seeds(spec.seed, ids), eta=subjects.linked, licence=licence, study=columns,
                own=made.own,
            )  # fmt: skip
            if info.arms:
                records += tables.write_truth(
                    root, shard, PROPENSITY, None, columns=_propensities(made), study=columns, licence=licence
                )
        parameters, dv = potential.taken(subjects.arm)
        named = {name: parameters[:, i].copy() for i, name in enumerate(design.model.parameter_names)}
        records += tables.write_random_effects(root, shard, level, eta=subjects.eta, parameters=named, licence=licence)
        carried = {name: made.own[name] for name in (field.name for field in columns.of_observations())}
        records += tables.write_observations(
            root, shard, level, times=spec.outcomes.times, doses=slots.slots, dv=dv, visits=potential.visits,
            licence=licence, study=columns, own=carried, given=slots.given(subjects.arm) if info.arms else None,
        )  # fmt: skip
        if info.arms:
            records += _write_truth(root, shard, spec, info, made)
    return records


def _write_truth(
    root: Root, shard: Shard, spec: OutcomeSpec, info: StudyInfo, made: StudyLevel
) -> tuple[FileRecord, ...]:
    potential, n, arms = made.potential, len(made.subjects.ids), len(info.arms)
    number = np.tile(np.arange(arms), (n, 1))
    dv = potential.dv.transpose(1, 0, 2).astype(np.float32)  # as observations are stored
    outcomes = {f"dv_{i}": dv[:, :, i] for i in range(dv.shape[2])}
    effects = {name: values.T for name, values in potential.functionals.items()}
    effects |= {f"effect_{name}": (values - values[0]).T for name, values in potential.functionals.items()}
    for name in info.columns.effects:
        tau = np.zeros((n, arms))
        for (arm, parameter), values in made.subjects.effects.items():
            if parameter == name:
                tau[:, arm] = values
        effects[f"tau_{name}"] = tau
    level, times = made.design.level, spec.outcomes.times
    written: tuple[FileRecord, ...] = ()
    for table, columns in ((POTENTIAL, outcomes), (EFFECTS, effects)):
        written += tables.write_truth(
            root, shard, table, level, columns={"arm": number, **columns}, study=info.columns, times=times,
            licence=spec.licence,
        )  # fmt: skip
    return written


def _propensities(made: StudyLevel) -> dict[str, NDArray[Any]]:
    own = {} if made.subjects.confounder is None else {"confounder": made.subjects.confounder}
    names = [arm.name for arm in made.design.arms]
    return own | {f"propensity_{name}": made.subjects.propensities[:, i] for i, name in enumerate(names)}


def study_info(spec: OutcomeSpec) -> StudyInfo | None:
    """What the manifest says of the study design; None without one."""
    whole = spec.model_copy(update={"splits": ()})  # the same for all shards
    return _info(whole, get_model(spec.outcomes.model)) if spec.study.active else None


@lru_cache(maxsize=4)
def _info(spec: OutcomeSpec, model: PopulationModel) -> StudyInfo:
    study, designs = spec.study, designs_of(spec)
    first = designs[0]
    arms = []
    for arm in study.arms:
        doses = spec.outcomes.given if arm.doses is None else single_doses(arm.doses)
        effects = tuple(effect.parameter for effect in arm.effects)
        arms.append(ArmInfo(name=arm.name, share=arm.share, doses=_planned(doses), effects=effects))
    sites = []
    for site in study.sites:
        shift = acquisition_shift(site, spec.seed)
        sites.append(SiteInfo(name=site.name, share=site.share, strength=site.strength, **vars(shift)))
    variables = {name: normal.image.tolist() for name, normal in first.normals.items()}
    if study.needs_prognosis:
        variables["prognosis"] = first.prognosis.image.tolist()
    return StudyInfo(
        eta_dims=spec.eta_dims, entries=first.entries, functional=study.functional,
        association={level_name(design.level): design.levels for design in designs},
        confounded=first.confounded, arms=tuple(arms), sites=tuple(sites), set_by_arms=first.set_by_arms,
        covariates=tuple(
            CovariateInfo(name=one.name, kind=one.kind, linked_to=one.linked_to, level=one.level)
            for one in study.covariates
        ),
        image_weights={name: tuple(map(_rounded, weights)) for name, weights in variables.items()},
        designed=_designed(designs),
    )  # fmt: skip


def _designed(designs: list[StudyDesign]) -> dict[str, float]:
    """Numbers of the designs by quadrature."""
    found: dict[str, float] = {}
    for design in designs:
        if len(design.arms) < 2:
            continue
        for number, causal in causal_design(design).items():
            name = f"{design.arms[number].name} at {level_name(design.level)}"
            found |= {f"effect of {name}": causal.effect, f"naive difference of {name}": causal.naive}
            found[f"sd of the effect of {name}"] = causal.sd
    if (propensity := designs[0].propensity) is not None:
        found |= {"propensity intercept": propensity.intercept, "propensity slope": propensity.slope}
        found["effective share"] = _rounded(propensity.effective_share)
    return found


def acquire(spec: ImageSpec, images: NDArray[np.uint8], ids: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Generated images (n, H, W) of subjects ``ids`` as their sites acquire them."""
    if (there := spec.sites) is None:
        return images
    site, shifts = _sites(there, spec, ids), [acquisition_shift(site, spec.seed) for site in there.study.sites]
    return shift_images(images, subject_seeds(spec.seed, ids), site, shifts)


def _sites(there: SiteSpec, spec: ImageSpec, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    if there.study.shortcut.to == "nothing":
        return design_sites([site.share for site in there.study.sites]).draw(None, spec.seed, ids)
    load_named(there.outcomes.model)  # in a worker's process: the run has it, from the user's configuration
    design = design_study(there.study, there.outcomes, spec.seed, there.level, spec.latent_dim, there.eta_dims)
    if there.study.shortcut.to == "outcome":
        sites = study_level(design, ids).sites
        assert sites is not None, "a design with sites"
        return sites
    return design.draw_sites(design.draw(ids))


def _planned(doses: list[tuple[float, float, int, float]]) -> tuple[PlannedDose, ...]:
    return tuple(PlannedDose(*dose) for dose in doses)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
