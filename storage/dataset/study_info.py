"""What a manifest says of a study design: arms with their doses, covariates, sites, directions, designed numbers."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from image_longitudinal.core.names import Label
from image_longitudinal.storage.dataset.study_columns import StudyColumns
from image_longitudinal.storage.dataset.tables import PlannedDose

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,29}$")]
Numbers = tuple[float, ...]
MAX_ARMS = 64


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ArmInfo(_Record):
    """An arm: its doses, and the names of parameters that it acts on."""

    name: Name
    share: float = Field(gt=0, le=1)
    doses: tuple[PlannedDose, ...]
    effects: tuple[Label, ...] = ()


class CovariateInfo(_Record):
    """A covariate."""

    name: Name
    kind: Label
    linked_to: Label
    level: float = Field(ge=0, le=1)


class SiteInfo(_Record):
    """A site and its acquisition shift (:mod:`models.design.acquisition` has the units)."""

    name: Name
    share: float = Field(gt=0, le=1)
    strength: float = Field(ge=0)
    gain: float
    contrast: float
    blur: float
    speckle: float
    offset: float


class StudyInfo(_Record):
    """A study design as it was made.

    ``eta_dims`` and ``entries``: latent dimensions of random effects and directions. ``association``: designed level of
    each random effect, by association level of the data set. ``set_by_arms``: covariates to which the arms give their
    values. ``image_weights``: weights of the latent dimensions in each
    designed variable of variance 1. ``designed``: numbers by quadrature, by what they are.
    """

    eta_dims: tuple[Annotated[int, Field(ge=0)], ...]
    entries: tuple[Annotated[int, Field(ge=0)], ...]
    functional: Label
    association: dict[Label, Numbers]
    confounded: bool = False
    arms: tuple[ArmInfo, ...] = Field((), max_length=MAX_ARMS)
    covariates: tuple[CovariateInfo, ...] = Field((), max_length=MAX_ARMS)
    set_by_arms: tuple[Name, ...] = Field((), max_length=MAX_ARMS)
    sites: tuple[SiteInfo, ...] = Field((), max_length=MAX_ARMS)
    image_weights: dict[Label, Numbers] = {}
    designed: dict[Label, float] = {}

    @property
    def columns(self) -> StudyColumns:
        """What it adds to the tables."""
        effects = dict.fromkeys(name for arm in self.arms for name in arm.effects)
        return StudyColumns(
            arms=tuple(arm.name for arm in self.arms), covariates=(*(one.name for one in self.covariates),
            *self.set_by_arms), effects=tuple(effects), sites=bool(self.sites), confounder=self.confounded,
        )  # fmt: skip


class DoseSlots:
    """The dose rows that every subject has: a row for each dose of any arm, with what each arm gets there.

    All subjects have the same rows, so that a subject's are found without reading the others'. Where an arm gets
    nothing, its row has EVID 2 (another event) and amount 0.

    ``slots``: time, compartment, and the largest amount and rate of an arm; ``amounts`` and ``rates`` (A, S).
    """

    def __init__(self, arms: Sequence[Sequence[PlannedDose]]) -> None:
        keyed = [_keyed(doses) for doses in arms]
        keys = sorted({key for one in keyed for key in one}) if len(set(map(tuple, arms))) > 1 else list(keyed[0])
        none = PlannedDose(0.0, 0.0)
        self.amounts = np.array([[one.get(key, none).amt for key in keys] for one in keyed]).reshape(len(arms), -1)
        self.rates = np.array([[one.get(key, none).rate for key in keys] for one in keyed]).reshape(len(arms), -1)
        self.slots = tuple(
            PlannedDose(time, float(self.amounts[:, i].max()), cmt, float(self.rates[:, i].max()))
            for i, (time, cmt, _) in enumerate(keys)
        )

    def given(self, arm: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Amount and rate (n, S) that subjects get who take these arms (n,)."""
        return self.amounts[arm], self.rates[arm]


def _keyed(doses: Sequence[PlannedDose]) -> dict[tuple[float, int, int], PlannedDose]:
    """Doses by time, compartment and how many there were before at the same."""
    seen: Counter[tuple[float, int]] = Counter()
    found = {}
    for dose in doses:
        place = (dose.time, dose.cmt)
        found[*place, seen[place]] = dose
        seen[place] += 1
    return found
