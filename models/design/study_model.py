"""The population model of a study, which fits of its tables use: covariates and the arms' effects in the equations."""

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.study_config import StudyConfig
from image_longitudinal.models.design.study import StudyDesign, effect_name
from image_longitudinal.models.nlme.model.effects import with_covariate, with_treatment
from image_longitudinal.models.nlme.model.population import PopulationModel

FloatArray = NDArray[np.float64]


def study_model(study: StudyConfig, model: PopulationModel) -> PopulationModel:
    """The population model of a study, for fits of its tables: covariates and the arms' effects, with their true
    values.

    Effects are independent of the other random effects here; :func:`true_omega` has how the image ties them.
    """
    for covariate in study.covariates:
        for one in covariate.effects:
            model = with_covariate(
                model, one.parameter, covariate.name, effect=one.effect, reference=one.reference,
                coefficient=one.coefficient,
            )  # fmt: skip
    for number, arm in enumerate(study.arms):
        for effect in arm.effects:
            name = f"tau_{arm.name}_{effect.parameter}"
            variance = effect.sd**2
            model = with_treatment(model, effect.parameter, number, mean=effect.mean, variance=variance, name=name)
    return model


def true_omega(design: StudyDesign) -> FloatArray:
    """Covariance of the random effects of :func:`study_model` under a design: effects share the image with others."""
    image, effects = design.image_rows(), [(number, one) for number, one in design.treatment() if one.sd > 0]
    k = len(image)
    out = np.zeros((k + len(effects), k + len(effects)))
    out[:k, :k] = design.model.omega
    links = [(one.sd, design.normals[effect_name(design.arms[number], one)]) for number, one in effects]
    for i, (sd, link) in enumerate(links, k):
        out[i, :k] = out[:k, i] = sd * (image @ link.image)
        for j, (other_sd, other) in enumerate(links, k):
            out[i, j] = sd * other_sd * (1.0 if i == j else link.covariance(other))
    return out
