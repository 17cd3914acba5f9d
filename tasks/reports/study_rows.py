"""Designed against achieved numbers of a study design, read back from the finished tables, shard by shard."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from image_longitudinal.core.study_config import Covariate
from image_longitudinal.models.design.achieved import AchievedRow, AUCSums, CausalSums, PairSums, ShareSums
from image_longitudinal.models.design.covariates import thresholds
from image_longitudinal.models.design.quadrature import causal_design
from image_longitudinal.models.design.study import StudyDesign, effect_name
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.tasks.shards.specs import OutcomeSpec
from image_longitudinal.tasks.shards.study import designs_of

FloatArray = NDArray[np.float64]
Interval = tuple[float, float, float]


class StudyRecord(NamedTuple):
    """The recorded variables of a run of subjects."""

    latents: NDArray[np.float32]
    eta: FloatArray
    columns: dict[str, FloatArray]
    effects: dict[str, FloatArray]  # (n, A)
    confounder: FloatArray | None


def study_rows(dataset: Dataset, spec: OutcomeSpec) -> list[AchievedRow]:
    """Every designed number of the study beside what the tables hold; empty without a study."""
    if dataset.manifest.study is None:
        return []
    runs = [run for split in dataset.manifest.present_splits for run in dataset.runs(split)]
    rows: list[AchievedRow] = []
    for number, design in enumerate(designs_of(spec)):
        sums: dict[tuple[str, str], Any] = {}
        for run in runs:
            for name, value in sums_of(design, _read(dataset, design.level, *run), first=number == 0).items():
                sums[name] = value if name not in sums else sums[name] + value
        rows += rows_of(design, sums, first=number == 0)
    return rows


def _read(dataset: Dataset, level: float, start: int, stop: int) -> StudyRecord:
    info = dataset.manifest.study
    assert info is not None, "rows of a study"
    columns, arms = info.columns, len(info.arms)
    names = [field.name for field in columns.of_subjects()]
    own = dataset.columns("subjects", None, start, stop, names) if names else np.zeros((stop - start, 0))
    effects: dict[str, FloatArray] = {}
    confounder = None
    if arms:
        wanted = [info.functional, f"effect_{info.functional}", *(f"tau_{name}" for name in columns.effects)]
        values = dataset.columns("truth/effects", level, start, stop, wanted, rows=arms)
        effects = {name: values[:, i].reshape(-1, arms) for i, name in enumerate(wanted)}
    if columns.confounder:
        confounder = dataset.columns("truth/propensity", None, start, stop, ["confounder"])[:, 0]
    by_name = {name: own[:, i] for i, name in enumerate(names)}
    return StudyRecord(dataset.latents[start:stop], dataset.used_eta(level)[start:stop], by_name, effects, confounder)


def sums_of(design: StudyDesign, read: StudyRecord, *, first: bool) -> dict[tuple[str, str], Any]:
    """Sums by (knob, name); those that do not depend on the level only of the first."""
    study, found = design.study, dict[tuple[str, str], Any]()
    arm = read.columns["arm"].astype(int) if study.arms else None
    if arm is not None:
        found |= _causal_sums(design, read, arm)
    if not first:
        return found
    for one in study.covariates:
        target = _target(design, one.linked_to, f"covariate {one.name}", read)
        values = read.columns[one.name]
        found["covariate", one.name] = PairSums.of(_normal(one, values), 0.0 if target is None else target)
        if one.kind != "continuous":
            found["covariate shares", one.name] = ShareSums.of(values.astype(int), len(one.shares))
    if arm is not None:
        found["arm", ""] = ShareSums.of(arm, len(study.arms))
        for number, effect in design.treatment():
            name, tau = effect_name(design.arms[number], effect), read.effects[f"tau_{effect.parameter}"][:, number]
            along = _along(design, name, read)
            found["effect", name] = PairSums.of((tau - effect.mean) / (effect.sd or 1.0), along)
    if read.confounder is not None and arm is not None:
        found["assignment", "auc"] = AUCSums.of(ndtr(read.confounder), arm == 1)
        found["assignment", "image"] = PairSums.of(read.confounder, _along(design, "confounder", read))
        if study.needs_prognosis:
            found["assignment", "prognosis"] = PairSums.of(read.confounder, _prognosis(design, read))
    if study.sites:
        site = read.columns["site"].astype(int)
        found["site", ""] = ShareSums.of(site, len(study.sites))
        if study.shortcut.to == "arm" and arm is not None:
            found["site", "shortcut"] = PairSums.of(site, arm)
        elif study.shortcut.to == "outcome":
            taken = arm if arm is not None else np.zeros(len(site), int)
            if design.study.functional in read.effects:
                outcome = read.effects[design.study.functional][np.arange(len(site)), taken]
                draw = design.sites
                assert draw is not None, "a design with sites"
                found["site", "shortcut"] = PairSums.of(site, (outcome - draw.mean) / draw.sd)
    return found


def _causal_sums(design: StudyDesign, read: StudyRecord, arm: NDArray[np.integer]) -> dict[tuple[str, str], Any]:
    functional = design.study.functional
    taken = read.effects[functional][np.arange(len(arm)), arm]
    found = {}
    for number in range(1, len(design.arms)):
        group = np.where(arm == 0, 0, np.where(arm == number, 1, 2))
        effect = read.effects[f"effect_{functional}"][:, number]
        found["causal", design.arms[number].name] = CausalSums.of(taken, effect, group)
    return found


def rows_of(design: StudyDesign, sums: dict[tuple[str, str], Any], *, first: bool) -> list[AchievedRow]:
    """Rows from sums over all subjects."""
    study, rows = design.study, []

    def row(knob: str, name: str, designed: float, interval: Interval) -> None:
        rows.append(AchievedRow(knob, name, designed, *interval))

    causal = causal_design(design) if len(design.arms) > 1 else {}
    for number, one in causal.items():
        name, found = design.arms[number].name, sums["causal", design.arms[number].name]
        where = f"{study.functional}, {name} against {design.arms[0].name}, association {design.level:g}"
        row("effect", f"mean individual effect on {where}", one.effect, found.effect())
        row("assignment", f"bias of the naive difference of {where}", one.bias, found.bias())
    if not first:
        return rows
    for number, effect in design.treatment():
        name, found = effect_name(design.arms[number], effect), sums["effect", effect_name(design.arms[number], effect)]
        scale = effect.sd or 1.0
        mean, sd = ([scale * value for value in values] for values in (found.mean(), found.sd()))
        row("effect", f"τ: {name}", effect.mean, (effect.mean + mean[0], effect.mean + mean[1], effect.mean + mean[2]))
        if effect.sd:
            row("effect", f"sd: {name}", effect.sd, (sd[0], sd[1], sd[2]))
            row("effect", f"share explained by the image: {name}", effect.image_share, found.explained())
    for number, arm in enumerate(study.arms):
        row("arms", f"share of {arm.name}", arm.share, sums["arm", ""].share(number))
    if design.propensity is not None:
        assignment = study.assignment
        row("assignment", "AUC of the propensity", assignment.auc, sums["assignment", "auc"].auc())
        row("assignment", "share of the confounder explained by the image", assignment.image_share,
            sums["assignment", "image"].explained())  # fmt: skip
        if ("assignment", "prognosis") in sums:
            correlation = sums["assignment", "prognosis"].correlation()
            row("assignment", "correlation of confounder and prognosis", assignment.prognosis, correlation)
    for covariate in study.covariates:
        name, found = covariate.name, sums["covariate", covariate.name]
        if covariate.kind == "continuous":
            mean, sd = found.mean(), found.sd()
            typical = _typical(covariate, mean[0]), _typical(covariate, mean[1]), _typical(covariate, mean[2])
            row("covariates", f"{'median' if covariate.log else 'mean'} of {name}", covariate.mean, typical)
            row("covariates", f"sd of {'log ' if covariate.log else ''}{name}", covariate.sd,
                (covariate.sd * sd[0], covariate.sd * sd[1], covariate.sd * sd[2]))  # fmt: skip
        else:
            for number, share in enumerate(covariate.shares):
                row("covariates", f"share of {name} = {number}", share, sums["covariate shares", name].share(number))
        if covariate.linked_to != "nothing":
            explained = found.explained(_factor(design, covariate))
            row("covariates", f"share of {name} explained by {covariate.linked_to}", covariate.level, explained)
    for number, site in enumerate(study.sites):
        row("sites", f"share of {site.name}", site.share, sums["site", ""].share(number))
    if ("site", "shortcut") in sums:
        correlation = sums["site", "shortcut"].correlation()
        row("sites", f"correlation of site and {study.shortcut.to}", study.shortcut.correlation, correlation)
    return rows


def _factor(design: StudyDesign, covariate: Covariate) -> float:
    """The correlation of a covariate with what it is linked to, over that of its variable x."""
    if covariate.kind == "continuous":
        return 1.0
    if covariate.linked_to == "arm" and covariate.level > 0:
        return design.cuts_by_arm(covariate)[1] / float(np.sqrt(covariate.level))
    return thresholds(covariate.shares).factor


def _normal(covariate: Covariate, values: FloatArray) -> FloatArray:
    """The covariate's standard normal, or the number made of its thresholds."""
    if covariate.kind != "continuous":
        return values
    if covariate.log:
        return np.asarray(np.log(values / covariate.mean) / covariate.sd)
    return np.asarray((values - covariate.mean) / covariate.sd)


def _typical(covariate: Covariate, normal: float) -> float:
    """The value of a continuous covariate at a value of its normal."""
    return (
        covariate.mean * float(np.exp(covariate.sd * normal))
        if covariate.log
        else covariate.mean + covariate.sd * normal
    )


def _target(design: StudyDesign, linked_to: str, name: str, read: StudyRecord) -> FloatArray | None:
    if linked_to == "image":
        return _along(design, name, read)
    if linked_to == "prognosis":
        return _prognosis(design, read)
    return read.columns["arm"] if linked_to == "arm" else None


def _along(design: StudyDesign, name: str, read: StudyRecord) -> FloatArray:
    """What the image says of a variable, of variance 1; where it says nothing, of the direction that it has."""
    normal = design.normals[name]
    if normal.explained > 0:
        return np.asarray(normal.of_image(read.latents) / np.sqrt(normal.explained))
    return read.latents[:, design.entries[0]].astype(np.float64)


def _prognosis(design: StudyDesign, read: StudyRecord) -> FloatArray:
    """The prognosis (n,) from the random effects used."""
    omega, weights = np.asarray(design.model.omega), np.asarray(design.prognosis_weights)
    return np.asarray(read.eta @ weights / np.sqrt(weights @ omega @ weights))


def by_knob(rows: Sequence[AchievedRow]) -> dict[str, list[AchievedRow]]:
    """Rows by knob, for the report."""
    found = defaultdict(list)
    for one in rows:
        found[one.knob].append(one)
    return dict(found)
