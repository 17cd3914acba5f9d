"""Population models by name. A user's own file registers its model the same way and is loaded by its path."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from core.errors import ConfigError
from models.nlme.library import compartments, depot_central, emax, indirect_response, visual_acuity
from models.nlme.population import PopulationModel

_MODELS: dict[str, PopulationModel] = {}
_FILES: set[str] = set()  # of users, run already


def register(model: PopulationModel) -> PopulationModel:
    """Make a model known by its name; ConfigError if another model already has it."""
    if _MODELS.setdefault(model.name, model) is not model:
        raise ConfigError(f"a model named {model.name!r} is already registered", do="choose another name")
    return model


def known_models() -> list[str]:
    """Names of the registered models, sorted."""
    return sorted(_MODELS)


def get_model(name: str) -> PopulationModel:
    """The registered model of that name, or of a user's file: ``my_models.py:gompertz-growth``.

    Raises:
        ConfigError: no such file or model; names the known ones.
    """
    file, separator, own = name.rpartition(":")
    if separator and file.endswith(".py"):
        if str(Path(file).resolve()) not in _FILES:
            load_models(file)
        name = own
    if name not in _MODELS:
        raise ConfigError("unknown longitudinal model", expected=f"one of {', '.join(known_models())}", got=repr(name))
    return _MODELS[name]


def load_models(path: str | Path) -> list[str]:
    """Run a user's Python file, which calls :func:`register`; names of the models it added.

    Raises:
        ConfigError: no such file, or it registers nothing.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError("no such model file", got=file)
    before = set(_MODELS)
    spec = importlib.util.spec_from_file_location(f"user_models_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ConfigError("a model file must be a Python file", got=file)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    _FILES.add(str(file.resolve()))
    added = sorted(set(_MODELS) - before)
    if not added:
        raise ConfigError("the model file registers no model", where=file, do="call register(...) in it")
    return added


for _model in (
    depot_central.MODEL,
    *compartments.MODELS,
    *indirect_response.MODELS,
    *emax.MODELS,
    *visual_acuity.MODELS,
):
    register(_model)
