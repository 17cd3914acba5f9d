"""Population models by name; a user's file adds models in the same way.

For example ``growth.py``, whose model is then called ``growth.py:gompertz-growth``::

    from image_longitudinal.models.nlme.model import symbolic as s
    from image_longitudinal.models.nlme.library import register
    from image_longitudinal.models.nlme.model.population import Design, Parameter, PopulationModel
    from image_longitudinal.models.nlme.model.residual_error import ResidualError
    from image_longitudinal.models.nlme.model.structural import StructuralModel

    register(PopulationModel(
        name="gompertz-growth",
        structural=StructuralModel(
            name="gompertz-growth", states=("size",), parameters=("rate", "limit"),
            rhs=lambda t, x, p: {"size": p.rate * x.size * s.log(p.limit / x.size)},
            output=lambda t, x, p: x.size,
            initial=lambda p: {"size": 1.0},
        ),
        parameters=(Parameter("rate", 0.3), Parameter("limit", 50.0)),
        omega=((0.1, 0.0), (0.0, 0.1)),
        residual=ResidualError("proportional", proportional=0.1),
        design=Design(times=(0.0, 5.0, 10.0), doses=()),
    ))

Lag times and the like (``dosing``), covariates, several endpoints and likelihoods of counts, levels and events
(``likelihood``, docs/reference/population.md) are further arguments of ``StructuralModel``;
:mod:`models.nlme.model.effects` adds covariate effects and occasions to an existing model.

A file runs only where the user names it: :func:`load_models` and :func:`load_named`. Data sets and fits that others
made hold such names too; what reads those calls :func:`get_model`, which runs nothing.
"""

from pathlib import Path
from types import ModuleType

from image_longitudinal.core.digest import file_sha256
from image_longitudinal.core.errors import ConfigError, did_you_mean
from image_longitudinal.models.nlme.library import pharmacokinetics, visual_acuity
from image_longitudinal.models.nlme.model.explanations import explained
from image_longitudinal.models.nlme.model.population import PopulationModel

_MODELS: dict[str, PopulationModel] = {}
_FILES: dict[str, tuple[str, tuple[str, ...]]] = {}  # of users: digest of the content that was run, names of its models


def register(model: PopulationModel) -> PopulationModel:
    """Register a model under its name; ConfigError if another model already has the name."""
    if _MODELS.setdefault(model.name, model) is not model:
        raise ConfigError(f"a model named {model.name!r} is already registered", do="choose another name")
    return model


def known_models() -> list[str]:
    """Names of the registered models, sorted."""
    return sorted(_MODELS)


def get_model(name: str) -> PopulationModel:
    """The registered model of that name; one of a user's file, ``growth.py:gompertz-growth``, if a file has defined it.

    Runs no code: the name may come from a data set.

    Raises:
        ConfigError: there is no such model, or no file that the user named has defined it.
    """
    file, own = _parts(name)
    if file is not None and not any(own in names for _, names in _FILES.values()):
        raise ConfigError(
            "the longitudinal model is code in a file, which does not run because data name it", where=name,
            do="read the file; if you trust it, name it yourself (--trust FILE)",
        )  # fmt: skip
    name = own
    if name not in _MODELS:
        raise ConfigError(
            "unknown longitudinal model", expected=f"one of {', '.join(known_models())}", got=repr(name),
            do=did_you_mean(name, known_models()),
        )  # fmt: skip
    return _MODELS[name]


def load_named(name: str) -> None:
    """Run the file of a model that the user's own configuration or command names, unless its content has run.

    Raises:
        ConfigError: as :func:`load_models`.
    """
    file, _ = _parts(name)
    if file is not None and not is_loaded(name):
        load_models(file)


def is_loaded(name: str) -> bool:
    """Whether a model needs no file, or its very file has run with its present content."""
    file, _ = _parts(name)
    return file is None or _FILES.get(str(file.resolve()), ("",))[0] == _digest(file)


def load_models(path: str | Path) -> list[str]:
    """Run a user's Python file, which calls :func:`register`; names of the models it added.

    Raises:
        ConfigError: no such file, one that Python cannot run, or it registers nothing.
    """
    file = Path(path)
    digest, place = _digest(file), str(file.resolve())
    for name in _FILES.pop(place, ("", ()))[1]:  # of an earlier content
        _MODELS.pop(name, None)
    before = set(_MODELS)
    module = ModuleType(f"user_models_{file.stem}")
    module.__file__ = place
    # Not by an import: its bytecode cache misses an edit within a second that does not change the file's size.
    try:
        exec(compile(file.read_bytes(), place, "exec"), module.__dict__)  # noqa: S102 - the user asked to run it
    except Exception as error:  # whatever a person's code raises
        for name in set(_MODELS) - before:  # those registered above the error
            _MODELS.pop(name)
        raise explained(error, "the model file cannot be run", file=place) from error
    added = sorted(set(_MODELS) - before)
    if not added:
        raise ConfigError("the model file registers no model", where=file, do="call register(...) in it")
    _FILES[place] = (digest, tuple(added))
    return added


def model_content(name: str) -> str:
    """Identity of a model: its name, or for a user's file SHA-256 and name; ConfigError without such a file.

    With how it is solved, if in closed form: until version 0.1 such models were integrated.
    """
    file, own = _parts(name)
    content = own if file is None else f"{_digest(file)}:{own}"
    return f"{content}, closed form" if _is_linear(own) else content


def _is_linear(name: str) -> bool:
    """Whether a model that is registered consists of linear compartments."""
    from image_longitudinal.models.nlme.kernels.codegen import linear_kernel  # here: numba is slow to import

    model = _MODELS.get(name)
    if model is None or model.structural.kernel or not model.structural.states:
        return False
    return linear_kernel(model.structural) is not None


def _parts(name: str) -> tuple[Path | None, str]:
    """A user's file, or None, and the name of the model."""
    file, separator, own = name.rpartition(":")
    return (Path(file), own) if separator and file.endswith(".py") else (None, name)


def _digest(file: Path) -> str:
    if not file.is_file():
        raise ConfigError("no such model file", got=file)
    return file_sha256(file)


for _model in (*pharmacokinetics.MODELS, *visual_acuity.MODELS):
    register(_model)
