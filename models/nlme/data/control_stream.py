"""An NM-TRAN control stream of a population model: its equations, start values and a fit by FOCEI."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.kernels.graphs import is_zero, simplify, write
from image_longitudinal.models.nlme.model.population import Parameter, PopulationModel
from image_longitudinal.models.nlme.model.symbolic import SymbolicSystem, trace

_RELATIONS = {
    "<=": ".LE.",
    ">=": ".GE.",
    "==": ".EQ.",
    "!=": ".NE.",
    "<": ".LT.",
    ">": ".GT.",
    "and": ".AND.",
    "or": ".OR.",
}
_CALLS = {"math.exp": "EXP", "math.log": "LOG", "math.sqrt": "SQRT", "math.sin": "SIN", "math.cos": "COS", "abs": "ABS"}
_CHOICE = re.compile(r"(?P<then>.+) if (?P<condition>.+) else (?P<otherwise>.+)")
_EXTREME = re.compile(r"(?P<kind>max|min)\((?P<one>[^,]+), (?P<other>[^,]+)\)")


def control_stream(model: PopulationModel, columns: Sequence[str], table: str, title: str) -> str:
    """The text of a control stream for a table.

    Args:
        model: a population model with one endpoint; random effects and residual error are those of its values, which
            are the start values of the fit.
        columns: of the table, in capitals, for $INPUT.
        table: name of the table's file.
        title: for $PROBLEM.

    Raises:
        ConfigError: the model has several endpoints, no states, or an operation that NM-TRAN does not have.
    """
    structural = model.structural
    if len(structural.endpoints) > 1 or not structural.states or model.shared_omega:
        expected = "differential equations, one endpoint, no occasions"
        raise ConfigError("no control stream is written for such a model", where=model.name, expected=expected)
    system = trace(structural)
    names = {system.time: "T"}
    names |= {variable: f"A({i})" for i, variable in enumerate(system.states, 1)}
    names |= dict(zip(system.parameters, map(str.upper, structural.parameters), strict=True))
    names |= dict(zip(system.covariates, map(str.upper, structural.covariates), strict=True))
    compartments = " ".join(f"COMP=({name.upper()})" for name in structural.states)
    own = " ".join(columns)
    sections = [
        f"$PROBLEM {title}", f"$INPUT {own}", f"$DATA {table} IGNORE=@", "$SUBROUTINES ADVAN13 TOL=9",
        f"$MODEL {compartments}", "$PK", *_individual(model), *_at_start(system, names),
        "$DES", *_statements([f"DADT({i})" for i in range(1, len(system.states) + 1)], system.derivatives, names, "XD"),
        "$ERROR", *_statements(["IPRED"], system.outputs, names | {system.time: "TIME"}, "XE"), *_scatter(model),
        *_thetas(model), *_omega(model), "$SIGMA 1 FIX", "$ESTIMATION METHOD=1 INTERACTION MAXEVAL=9999 NOABORT",
        "$TABLE ID TIME IPRED CWRES NOPRINT ONEHEADER FILE=sdtab",
    ]  # fmt: skip
    return "\n".join(sections) + "\n"


def _individual(model: PopulationModel) -> list[str]:
    """Individual parameters of $PK."""
    lines, number = [], 0
    for theta, parameter in enumerate(model.parameters, 1):
        number += parameter.random
        eta = f"ETA({number})"
        lines += [
            f"  TV{theta} = THETA({theta})",
            f"  {parameter.name.upper()} = {_distributed(parameter, theta, eta)}",
        ]
    return lines


def _distributed(parameter: Parameter, theta: int, eta: str) -> str:
    typical = f"TV{theta}"
    if not parameter.random:
        return typical
    if parameter.distribution == "log-normal":
        return f"{typical}*EXP({eta})"
    if parameter.distribution == "normal":
        return f"{typical} + {eta}"
    odds = f"{typical}/(1 - {typical})*EXP({eta})"
    return f"{odds}/(1 + {odds})"


def _at_start(system: SymbolicSystem, names: dict[Any, str]) -> list[str]:
    """Initial values, and what modifies doses, as far as they are not the usual ones."""
    initial = {f"A_0({i})": value for i, value in enumerate(system.initial, 1)}
    usual = {"ALAG": 0.0, "F": 1.0, "R": 0.0, "D": 0.0}
    dosing = [f"{prefix}{i}" for i in range(1, len(system.states) + 1) for prefix in usual]
    given = dict(zip(dosing, system.dosing, strict=True)) if system.dosing else {}
    for name, value in list(given.items()):
        if hasattr(value, "data") and float(value.data) == usual[name.rstrip("0123456789")]:
            del given[name]
    chosen = {name: value for name, value in initial.items() if not is_zero(simplify([value])[0])} | given
    return _statements(list(chosen), list(chosen.values()), names, "XS")


def _statements(targets: Sequence[str], expressions: Sequence[Any], names: dict[Any, str], prefix: str) -> list[str]:
    """Assignments in NM-TRAN's abbreviated code; ``prefix``: of the names of what is computed on the way."""
    lines: list[str] = []
    known, by_text = dict(names), dict[str, str]()
    for target, expression in zip(targets, simplify(expressions), strict=True):
        value = write(expression, known, by_text, lines)
        lines.append(f"{target} = {value}")
    found: list[str] = []
    for line in lines:
        target, _, value = line.partition(" = ")
        renamed = (re.sub(r"\bv(\d+)\b", rf"{prefix}\1", text) for text in (target, value))
        found += _assignment(*renamed)
    return [f"  {line}" for line in found]


def _assignment(target: str, value: str) -> list[str]:
    """One operation, as one statement or as IF ... ELSE."""
    if choice := _CHOICE.fullmatch(value):
        condition, then, otherwise = choice["condition"], choice["then"], choice["otherwise"]
    elif extreme := _EXTREME.fullmatch(value):
        relation = ">" if extreme["kind"] == "max" else "<"
        condition, then, otherwise = f"{extreme['one']} {relation} {extreme['other']}", extreme["one"], extreme["other"]
    else:
        return [f"{target} = {_text(value)}"]
    chosen = [f"IF ({_text(condition)}) THEN", f"  {target} = {_text(then)}"]
    return [*chosen, "ELSE", f"  {target} = {_text(otherwise)}", "ENDIF"]


def _text(value: str) -> str:
    """One operation of Python's text in NM-TRAN's."""
    for ours, theirs in _CALLS.items():
        value = re.sub(rf"(?<![\w.]){re.escape(ours)}\(", f"{theirs}(", value)
    for ours, theirs in _RELATIONS.items():
        value = value.replace(f" {ours} ", f" {theirs} ")
    if unknown := re.search(r"math\.\w+|\bfloat\b|\bnot\b|\bmax\b|\bmin\b", value):
        raise ConfigError("NM-TRAN has no such operation", got=unknown[0], do="write the control stream by hand")
    return value


def _scatter(model: PopulationModel) -> list[str]:
    """Residual error: its standard deviations are the last thetas."""
    residual, n = model.residual, len(model.parameters)
    additive, proportional = f"THETA({n + 1})", f"THETA({n + residual.uses_additive + 1})"
    if residual.kind == "log-normal":
        return [f"  Y = IPRED*EXP({additive}*EPS(1))"]
    size = {
        "additive": additive, "proportional": f"{proportional}*ABS(IPRED)",
        "combined1": f"{additive} + {proportional}*ABS(IPRED)",
        "combined2": f"SQRT({additive}**2 + ({proportional}*IPRED)**2)",
        "power": f"{proportional}*ABS(IPRED)**{residual.power!r}",
    }[residual.kind]  # fmt: skip
    return [f"  W = {size}", "  IF (W.EQ.0) W = 1", "  Y = IPRED + W*EPS(1)"]


def _thetas(model: PopulationModel) -> list[str]:
    lines = []
    for parameter in model.parameters:
        low = parameter.lower if parameter.lower is not None else None if parameter.distribution == "normal" else 0
        high = (
            parameter.upper if parameter.upper is not None else 1 if parameter.distribution == "logit-normal" else None
        )
        value = repr(parameter.typical)
        bounds = f"({'-INF' if low is None else low}, {value}{'' if high is None else f', {high}'})"
        lines.append(f"$THETA {f'{value} FIX' if parameter.fixed else bounds} ; {parameter.name}")
    residual = model.residual
    parts = [("additive", residual.additive)] * residual.uses_additive
    parts += [("proportional", residual.proportional)] * residual.uses_proportional
    return lines + [f"$THETA (0, {value!r}) ; {name} residual error" for name, value in parts]


def _omega(model: PopulationModel) -> list[str]:
    k = model.n_random_effects
    if not k:
        return []
    rows = [" ".join(repr(model.omega[i][j]) for j in range(i + 1)) for i in range(k)]
    return [
        f"$OMEGA BLOCK({k})",
        *(f"  {row} ; {name}" for row, name in zip(rows, model.random_effect_names, strict=True)),
    ]
