"""Control streams: their equations are the model's, and their values are start values."""

import math
import re

import numpy as np
import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.control_stream import control_stream
from image_longitudinal.models.nlme.kernels.graphs import value
from image_longitudinal.models.nlme.library import get_model, known_models
from image_longitudinal.models.nlme.model.symbolic import trace

COLUMNS = ("ID", "TIME", "EVID", "AMT", "CMT", "DV", "MDV")
WRITTEN = [
    name for name in known_models()
    if len(get_model(name).structural.endpoints) == 1 and get_model(name).structural.states
]  # fmt: skip
RELATIONS = {".GT.": ">", ".LT.": "<", ".GE.": ">=", ".LE.": "<=", ".EQ.": "==", ".NE.": "!="}


def section(stream: str, name: str) -> list[str]:
    return re.findall(rf"\${name}\n((?:  .*\n)*)", stream)[0].splitlines()


def run(lines: list[str], given: dict[str, float]) -> dict[str, float]:
    """What NM-TRAN's assignments compute, by a translation to Python."""
    program = []
    for line in lines:
        text, indent = line.strip(), " " * (line.startswith("    "))
        if text.startswith("IF (") and text.endswith(" THEN"):
            text = f"if {text[3:-5]}:"
        elif text.startswith("IF ("):
            text = re.sub(r"IF (\(.+?\)) (.*)", r"if \1: \2", text)
        text = {"ELSE": "else:", "ENDIF": ""}.get(text, text)
        for theirs, ours in RELATIONS.items():
            text = text.replace(theirs, ours)
        text = re.sub(r"\b(DADT|A_0|A|THETA|ETA|EPS)\((\d+)\)", r"\1_\2", text)
        program.append(indent + text)
    functions = {"EXP": math.exp, "LOG": math.log, "SQRT": math.sqrt, "ABS": abs}
    space = functions | given
    exec("\n".join(program), space)  # type: ignore[arg-type]
    return space  # type: ignore[return-value]


@pytest.mark.parametrize("name", WRITTEN)
def test_equations_are_those_of_the_model(name: str) -> None:
    model = get_model(name)
    stream = control_stream(model, COLUMNS, "train.csv", "a title")
    rng, system = np.random.default_rng(3), trace(model.structural)
    for _ in range(5):
        eta = rng.normal(0, 0.2, model.n_random_effects)
        given = {f"ETA_{i}": float(one) for i, one in enumerate(eta, 1)}
        given |= {f"THETA_{i}": parameter.typical for i, parameter in enumerate(model.parameters, 1)}
        given |= {covariate.upper(): 60.0 for covariate in model.structural.covariates}
        found = run(section(stream, "PK"), given)
        numbers, waiting = {}, iter(eta)
        for parameter, symbol in zip(model.parameters, system.parameters, strict=True):
            effect = next(waiting) if parameter.random else 0.0
            numbers[symbol] = float(parameter.individual(effect, np.exp))
            assert found[parameter.name.upper()] == pytest.approx(numbers[symbol], rel=1e-12)  # rounding
        numbers |= dict.fromkeys(system.covariates, 60.0)
        states = rng.uniform(0.1, 2.0, len(system.states))
        numbers |= dict(zip(system.states, map(float, states), strict=True)) | {system.time: 3.0}
        found |= {f"A_{i}": float(one) for i, one in enumerate(states, 1)} | {"T": 3.0, "TIME": 3.0}
        des = run(section(stream, "DES"), found)
        for i, derivative in enumerate(system.derivatives, 1):
            assert des[f"DADT_{i}"] == pytest.approx(
                value(derivative, numbers), rel=1e-10
            )  # another order of operations
        n = len(model.parameters)
        residual = model.residual
        used = [residual.additive] * residual.uses_additive + [residual.proportional] * residual.uses_proportional
        found |= {f"THETA_{n + i}": one for i, one in enumerate(used, 1)} | {"EPS_1": 0.7}
        error = run(section(stream, "ERROR"), found)
        prediction = value(system.outputs[0], numbers)
        assert error["IPRED"] == pytest.approx(prediction, rel=1e-10)
        expected = residual.scatter(np.array([prediction]), np.array([0.7]))[0]
        assert error["Y"] == pytest.approx(expected, rel=1e-10)


def test_values_bounds_and_blocks_are_start_values() -> None:
    model = get_model("depot-central-mm")
    stream = control_stream(model, COLUMNS, "train.csv", "demo, association 0.5, train")
    assert stream.startswith(
        "$PROBLEM demo, association 0.5, train\n$INPUT ID TIME EVID AMT CMT DV MDV\n$DATA train.csv"
    )
    assert "COMP=(DEPOT) COMP=(CENTRAL)" in stream
    for parameter in model.parameters:
        assert f"(0, {parameter.typical!r}) ; {parameter.name}\n" in stream or parameter.fixed
    assert (
        f"$OMEGA BLOCK({model.n_random_effects})\n  {model.omega[0][0]!r} ; {model.random_effect_names[0]}\n" in stream
    )


def test_a_model_without_such_a_form_is_refused() -> None:
    several = next(name for name in known_models() if len(get_model(name).structural.endpoints) > 1)
    with pytest.raises(ConfigError, match=f"no control stream is written for such a model.*{several}"):
        control_stream(get_model(several), COLUMNS, "t.csv", "t")
