"""Population models by name. A user's own file registers its model the same way and is loaded by its path."""

from __future__ import annotations

from core.errors import ConfigError
from models.nlme.library import depot_central
from models.nlme.population import PopulationModel

_MODELS: dict[str, PopulationModel] = {}


def register(model: PopulationModel) -> PopulationModel:
    """Make a model known by its name; ConfigError if another model already has it."""
    if _MODELS.setdefault(model.name, model) is not model:
        raise ConfigError(f"a model named {model.name!r} is already registered", do="choose another name")
    return model


def known_models() -> list[str]:
    """Names of the registered models, sorted."""
    return sorted(_MODELS)


def get_model(name: str) -> PopulationModel:
    """The registered model of that name; ConfigError naming the known ones otherwise."""
    if name not in _MODELS:
        raise ConfigError("unknown longitudinal model", expected=f"one of {', '.join(known_models())}", got=repr(name))
    return _MODELS[name]


for _model in (depot_central.MODEL,):
    register(_model)
