"""Designs for the tests of this folder."""

from typing import Any

from image_longitudinal.core.config import OutcomesConfig
from image_longitudinal.core.study_config import StudyConfig
from image_longitudinal.models.design.study import StudyDesign

LATENT_DIM, ETA_DIMS = 8, (0, 1, 2)
TWO_ARMS: list[dict[str, Any]] = [
    {"name": "control", "share": 0.5},
    {"name": "drug", "share": 0.5, "effects": [{"parameter": "ic50", "mean": 0.7, "sd": 0.5, "image_share": 0.5}]},
]
CONFOUNDED = {"kind": "confounded", "auc": 0.75, "image_share": 0.4, "prognosis": 0.6}
COVARIATES: list[dict[str, Any]] = [
    {"name": "weight", "mean": 70.0, "sd": 0.2, "log": True, "linked_to": "image", "level": 0.3,
     "effects": [{"parameter": "imax", "effect": "power", "reference": 70.0, "coefficient": 0.75}]},
    {"name": "sex", "kind": "binary", "shares": [0.4, 0.6], "linked_to": "prognosis", "level": 0.2},
    {"name": "stage", "kind": "categorical", "shares": [0.5, 0.3, 0.2], "linked_to": "arm", "level": 0.25},
]  # fmt: skip
SITES: list[dict[str, Any]] = [
    {"name": "north", "share": 0.4}, {"name": "south", "share": 0.35, "strength": 1.0}, {"name": "west", "share": 0.25},
]  # fmt: skip
EVERYTHING: dict[str, Any] = {
    "functional": "area", "arms": TWO_ARMS, "covariates": COVARIATES, "assignment": CONFOUNDED, "sites": SITES,
    "shortcut": {"to": "outcome", "correlation": 0.3},
}  # fmt: skip


def study(**values: Any) -> StudyConfig:
    """A section ``study``."""
    return StudyConfig.model_validate(values)


def design(seed: int = 1, level: float = 0.5, outcomes: OutcomesConfig | None = None, **values: Any) -> StudyDesign:
    """A resolved design of the published model."""
    return StudyDesign(study(**values), outcomes or OutcomesConfig(), seed, level, LATENT_DIM, ETA_DIMS)
