"""What a study design names in its longitudinal model: parameters, random effects, covariates."""

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.study_config import Arm, StudyConfig
from image_longitudinal.models.nlme.model.population import PopulationModel


def random_parameters(model: PopulationModel) -> tuple[str, ...]:
    """Names of the parameters that have a random effect, in the order of the random effects."""
    return tuple(own.name for own in model.parameters if own.random)


def check_names(study: StudyConfig, model: PopulationModel) -> None:
    """ConfigError if a study names a parameter, random effect or covariate that the longitudinal model lacks."""
    used = [("study.arms", effect.parameter) for arm in study.arms for effect in arm.effects]
    used += [("study.covariates", effect.parameter) for one in study.covariates for effect in one.effects]
    for where, name in used:
        if name not in model.parameter_names:
            expected = ", ".join(model.parameter_names)
            raise ConfigError(f"model {model.name} has no parameter that {where} acts on", expected=expected, got=name)
    for one in study.association:
        if one.effect not in random_parameters(model):
            expected = ", ".join(random_parameters(model))
            raise ConfigError(f"model {model.name} has no such random effect", expected=expected, got=one.effect)
    own = {one.name for one in study.covariates if one.linked_to != "arm"}  # the others are no baseline values
    for arm in study.arms or (Arm(name="all", share=1.0),):
        given = [one.name for one in arm.covariates]
        if unknown := sorted(set(given) - set(model.structural.covariates)):
            expected = ", ".join(model.structural.covariates) or "none"
            raise ConfigError(f"model {model.name} has no covariate that arm {arm.name} sets", expected=expected,
                              got=", ".join(unknown))  # fmt: skip
        if missing := sorted(set(model.structural.covariates) - own - set(given)):
            raise ConfigError(
                f"model {model.name} needs covariates", where=f"study, arm {arm.name}", expected=", ".join(missing),
                do="add them to study.covariates, or to the covariates of every arm",
            )  # fmt: skip
