"""PyTensor graphs of scalars: derivatives, canonical forms, and their text in Python."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from image_longitudinal.core.errors import ConfigError

_INFIX = {
    "Add": " + ", "Mul": " * ", "Sub": " - ", "TrueDiv": " / ", "Pow": " ** ",
    "LT": " < ", "GT": " > ", "LE": " <= ", "GE": " >= ", "EQ": " == ", "NEQ": " != ", "AND": " and ", "OR": " or ",
}  # fmt: skip
_CALLS = {
    "Exp": "math.exp", "Log": "math.log", "Sqrt": "math.sqrt", "Expm1": "math.expm1", "Log1p": "math.log1p",
    "Log2": "math.log2", "Log10": "math.log10", "Sin": "math.sin", "Cos": "math.cos", "Tanh": "math.tanh",
    "Abs": "abs", "Maximum": "max", "Minimum": "min", "GammaLn": "math.lgamma", "Psi": "digamma",
}  # fmt: skip
_FORMS = {
    "Neg": "-{0}", "Sqr": "{0} * {0}", "Reciprocal": "1.0 / {0}", "Switch": "{1} if {0} else {2}", "Invert": "not {0}",
    "Identity": "{0}", "Second": "{1}", "Cast": "float({0})", "Sign": "float(({0} > 0.0) - ({0} < 0.0))",
    "Log1mexp": "math.log(-math.expm1({0}))", "IsInf": "math.isinf({0})",
    "Sigmoid": "1.0 / (1.0 + math.exp(-{0}))", "Softplus": "math.log1p(math.exp(-abs({0}))) + max({0}, 0.0)",
}  # fmt: skip


def jacobian(expressions: Sequence[Any], wrt: Sequence[Any]) -> list[Any]:
    """Derivatives of scalars with respect to scalars, row by row, simplified."""
    import pytensor.gradient as gradient
    import pytensor.tensor as pt

    rows: list[Any] = []
    if not wrt:
        return rows
    for expression in expressions:
        row: Any = gradient.grad(expression, list(wrt), disconnected_inputs="ignore", return_disconnected="zero")
        rows += row
    return [pt.as_tensor_variable(row) for row in rows]


def simplify(expressions: Sequence[Any]) -> list[Any]:
    """Equal expressions in PyTensor's canonical form."""
    from pytensor.graph.fg import FunctionGraph
    from pytensor.graph.rewriting.utils import rewrite_graph

    if not expressions:
        return []
    graph: Any = FunctionGraph(outputs=list(expressions), clone=False, copy_inputs=False)
    simplified: Any = rewrite_graph(graph, include=("canonicalize", "stabilize"), clone=False)
    return list(simplified.outputs)


def is_zero(expression: Any) -> bool:
    """Whether a simplified expression is the number 0."""
    return expression.owner is None and hasattr(expression, "data") and float(expression.data) == 0.0


def value(expression: Any, given: Mapping[Any, float]) -> float:
    """An expression's value, by its text; ``given``: values of its variables."""
    names = {variable: f"given[{i}]" for i, variable in enumerate(given)}
    lines: list[str] = []
    result = write(expression, dict(names), {}, lines)
    space = {"math": math, "given": list(given.values())}
    exec("\n".join([*lines, f"result = {result}"]), space)  # noqa: S102 - text written from the graph above
    return float(space["result"])  # type: ignore[arg-type]


def write(variable: Any, known: dict[Any, str], by_text: dict[str, str], lines: list[str]) -> str:
    """The name or literal that holds ``variable``, after appending the lines that compute it."""
    if variable in known:
        return known[variable]
    if variable.owner is None:
        if hasattr(variable, "data"):
            return _literal(variable.data)
        raise ConfigError(f"the model uses a symbol that is no time, state, parameter or covariate: {variable}")
    node = variable.owner
    arguments = [write(argument, known, by_text, lines) for argument in node.inputs]
    text = _operation(node.op, arguments)
    if text not in by_text:
        by_text[text] = f"v{len(by_text)}"
        lines.append(f"{by_text[text]} = {text}")
    known[variable] = by_text[text]
    return known[variable]


def _literal(data: Any) -> str:
    if data.dtype.kind == "b":
        return f"({data.item()!r})"
    return f"({float(data)!r})".replace("inf", "math.inf").replace("nan", "math.nan")


def _operation(op: Any, arguments: list[str]) -> str:
    """Python text of one scalar operation; ConfigError if it has none."""
    kind = type(getattr(op, "scalar_op", op)).__name__
    if kind in ("DimShuffle", "TensorFromScalar", "ScalarFromTensor"):  # the same scalar in another type
        return arguments[0]
    if kind in _INFIX:
        return _INFIX[kind].join(arguments)
    if kind in _CALLS:
        return f"{_CALLS[kind]}({', '.join(arguments)})"
    if kind in _FORMS:
        return _FORMS[kind].format(*arguments)
    expected = f"one of {', '.join(sorted([*_INFIX, *_CALLS, *_FORMS]))}"
    raise ConfigError("the model uses an operation without a compiled form", expected=expected, got=kind)
