"""From the symbolic model to compiled kernels: PyTensor graphs of scalars written out as numba functions.

The generated source is one file per model in the user's cache folder, named by the digest of its own text and of the
integrator's. So numba's on-disk cache serves the next process, and an edited model never uses an old kernel. The
equations are compiled into the integrator, which evaluates them millions of times; all other kernels call the model by
address (:mod:`models.nlme.kernels.calls`) and are compiled once for all models.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.files import write_atomically
from image_longitudinal.models.nlme.kernels.cached import cache_folder, digest_of_sources
from image_longitudinal.models.nlme.model.structural import StructuralModel
from image_longitudinal.models.nlme.model.symbolic import trace

_INFIX = {
    "Add": " + ", "Mul": " * ", "Sub": " - ", "TrueDiv": " / ", "Pow": " ** ",
    "LT": " < ", "GT": " > ", "LE": " <= ", "GE": " >= ", "EQ": " == ", "NEQ": " != ", "AND": " and ", "OR": " or ",
}  # fmt: skip
_CALLS = {
    "Exp": "math.exp", "Log": "math.log", "Sqrt": "math.sqrt", "Expm1": "math.expm1", "Log1p": "math.log1p",
    "Log2": "math.log2", "Log10": "math.log10", "Sin": "math.sin", "Cos": "math.cos", "Tanh": "math.tanh",
    "Abs": "abs", "Maximum": "max", "Minimum": "min",
}  # fmt: skip
_FORMS = {
    "Neg": "-{0}", "Sqr": "{0} * {0}", "Reciprocal": "1.0 / {0}", "Switch": "{1} if {0} else {2}", "Invert": "not {0}",
    "Identity": "{0}", "Second": "{1}", "Cast": "float({0})", "Sign": "float(({0} > 0.0) - ({0} < 0.0))",
    "Sigmoid": "1.0 / (1.0 + math.exp(-{0}))", "Softplus": "math.log1p(math.exp(-abs({0}))) + max({0}, 0.0)",
}  # fmt: skip

KERNELS = Path(__file__).parent
PARTS = ("compiled", "records", "dop853", "esdirk", "calls")  # modules that are compiled into a generated file

_WITH_GRADIENT = """

@entry
def called_{name}(t, p, values, values_by):
    {name}(t, p, values)
    if values_by.size > 0:
        {name}_gradient(t, p, values_by)
    return 0.0
"""
ENTRIES = {
    "OUTPUT": """

@entry
def called_output(endpoint, t, x, p, by_parameter, by_state):
    if by_parameter.size > 0:
        output_gradient(endpoint, t, x, p, by_parameter, by_state)
    return output(endpoint, t, x, p)
""",
    "ADVANCE": """
_explicit = private_copy(__name__, "dop853").make_explicit(N_STATES, rhs, jacobian)
_advance = private_copy(__name__, "esdirk").make_advance(
    N_STATES, N_PARAMETERS, rhs, jacobian, parameter_jacobian, LINEAR, _explicit
)


@entry
def called_advance(t, end, state, p, step, tolerance, w):
    return _advance(t, end, state, p, step, tolerance, w)
""",
    "RHS": """

@entry
def called_rhs(t, x, p, out):
    rhs(t, x, p, out)
    return 0.0
""",
    "INITIAL": _WITH_GRADIENT.format(name="initial"),
    "DOSING": _WITH_GRADIENT.format(name="dosing"),
}

FOOTER = """
FUNCTIONS = {{{functions}}}
model, run = calls.bind(event_integration.solve_events, FUNCTIONS, N_STATES, N_PARAMETERS, N_COVARIATES)
"""


@lru_cache(maxsize=64)
def generated_kernel(model: StructuralModel) -> ModuleType:
    """The model's compiled functions: ``run`` (:func:`models.nlme.kernels.calls.bind`), ``rhs``, ``jacobian``, ...

    Raises:
        ConfigError: the model's equations use an operation that has no compiled form.
    """
    source = generate_source(model)
    parts = ((KERNELS / f"{part}.py").read_text(encoding="utf-8") for part in PARTS)
    name = f"nlme_kernel_{digest_of(source, *parts)[:24]}"
    if name in sys.modules:
        return sys.modules[name]
    path = cache_folder() / f"{name}.py"
    if not path.exists():
        write_atomically(path, source)  # other processes see the whole file or none
    return _load(name, path)


def solver_kernel(model: StructuralModel, *, plain: bool = True) -> ModuleType:
    """The fastest module with a ``run`` for a model: its hand-written kernel if there is one that can be used.

    ``plain``: every event is a dose of known amount and rate, which hand-written kernels require.
    """
    return importlib.import_module(model.kernel) if model.kernel and plain else generated_kernel(model)


def solver_digest(model: StructuralModel) -> str:
    """Digest of all code that decides a model's predictions and estimates."""
    solver = solver_kernel(model)  # the name of a generated one is the digest of its text
    own = digest_of_sources(Path(str(solver.__file__)).parent) if model.kernel else solver.__name__
    return digest_of(own, digest_of_sources(KERNELS))


def private_copy(kernel: str, module: str) -> ModuleType:
    """A copy of ``image_longitudinal.models.nlme.kernels.<module>`` under a name used by one generated file only.

    numba names compiled functions by module and a counter that restarts in each process. With one shared module, two
    kernels compiled in different processes and loaded from the cache into a third would have different machine code
    under equal symbols, and the linker would silently use one of them for both.
    """
    return _load(f"{kernel}_{module}", KERNELS / f"{module}.py")


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def generate_source(model: StructuralModel) -> str:
    """Python source of the model's compiled functions.

    Their argument ``p`` holds the parameters (m), the covariates' values (c) at a time, their slopes (c), that time.
    """
    from pytensor.graph.traversal import explicit_graph_inputs

    system = trace(model)
    x, p, m, c = system.states, system.parameters, len(system.parameters), len(system.covariates)
    names = {system.time: "t"}
    names |= {variable: f"x[{i}]" for i, variable in enumerate(x)}
    names |= {variable: f"p[{i}]" for i, variable in enumerate(p)}
    names |= {variable: f"c{i}" for i, variable in enumerate(system.covariates)}
    head = [f"c{i} = p[{m + i}] + p[{m + c + i}] * (t - p[{m + 2 * c}])" for i in range(c)]

    def function(name: str, arguments: str, targets: Sequence[str], expressions: Sequence[Any]) -> str:
        """One njit function that assigns each expression to its target; equal subexpressions are computed once."""
        lines: list[str] = []
        known, by_text = dict(names), dict[str, str]()
        for target, expression in zip(targets, _simplify(expressions), strict=True):
            value = _write(expression, known, by_text, lines)
            lines.append(f"return {value}" if target == "return" else f"{target} = {value}")
        body = "\n".join(f"    {line}" for line in [*head, *lines] or ["pass"])
        return f'@njit(nogil=True, error_model="numpy")\ndef {name}({arguments}):\n{body}\n'

    jacobian = _jacobian(system.derivatives, x)
    functions = [
        function("rhs", "t, x, p, out", _entries("out", x), system.derivatives),
        function("jacobian", "t, x, p, out", _cells(x, x), jacobian),
        function("parameter_jacobian", "t, x, p, out", _cells(x, p), _jacobian(system.derivatives, p)),
        function("initial", "t, p, out", _entries("out", x), system.initial),
        function("initial_gradient", "t, p, out", _cells(x, p), _jacobian(system.initial, p)),
        function("dosing", "t, p, out", _entries("out", system.dosing), system.dosing),
        function("dosing_gradient", "t, p, out", _cells(system.dosing, p), _jacobian(system.dosing, p)),
    ]
    targets = [*_entries("by_parameter", p), *_entries("by_state", x)]
    for i, output in enumerate(system.outputs):
        functions.append(function(f"output{i}", "t, x, p", ["return"], [output]))
        arguments = "t, x, p, by_parameter, by_state"
        functions.append(function(f"output_gradient{i}", arguments, targets, _jacobian([output], p + x)))
    functions += [_choice(name, arguments, len(system.outputs)) for name, arguments in (
        ("output", "t, x, p"), ("output_gradient", "t, x, p, by_parameter, by_state"),
    )]  # fmt: skip
    linear = not set(x) & set(explicit_graph_inputs(_simplify(jacobian)))  # the Jacobian does not contain the states
    head_of_file = (
        f'"""Compiled functions of the structural model {model.name!r}, generated from its symbolic form."""\n\n'
        "import math\n\nimport numpy as np\nfrom numba import njit\n\n"
        "from image_longitudinal.models.nlme.kernels.codegen import private_copy\n"
        "from image_longitudinal.models.nlme.kernels import calls, event_integration\n"
        "from image_longitudinal.models.nlme.kernels.calls import entry\n"
        "from image_longitudinal.models.nlme.kernels.esdirk import TOLERANCE\n\n"
        f"LINEAR, MODELLED = {linear}, {bool(system.dosing)}\n"
        f"N_STATES, N_PARAMETERS, N_COVARIATES = {len(x)}, {m}, {c}\n\n\n"
    )
    called = [name for name in ENTRIES if name in ("OUTPUT", "INITIAL") or (x and (name != "DOSING" or system.dosing))]
    footer = FOOTER.format(functions=", ".join(f"calls.{name}: called_{name.lower()}" for name in called))
    return head_of_file + "\n\n".join(functions) + "\n" + "".join(ENTRIES[name] for name in called) + footer


def _entries(name: str, of: Sequence[Any]) -> list[str]:
    return [f"{name}[{i}]" for i in range(len(of))]


def _choice(name: str, arguments: str, n: int) -> str:
    """A function that calls that of the given endpoint."""
    lines = [f"    if endpoint == {i}:\n        return {name}{i}({arguments})" for i in range(n - 1)]
    body = "\n".join([*lines, f"    return {name}{n - 1}({arguments})"])
    return f'@njit(nogil=True, error_model="numpy")\ndef {name}(endpoint, {arguments}):\n{body}\n'


def _cells(rows: Sequence[Any], columns: Sequence[Any]) -> list[str]:
    return [f"out[{i}, {j}]" for i in range(len(rows)) for j in range(len(columns))]


def _jacobian(expressions: Sequence[Any], wrt: Sequence[Any]) -> list[Any]:
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


def _simplify(expressions: Sequence[Any]) -> list[Any]:
    from pytensor.graph.fg import FunctionGraph
    from pytensor.graph.rewriting.utils import rewrite_graph

    if not expressions:
        return []
    graph: Any = FunctionGraph(outputs=list(expressions), clone=False, copy_inputs=False)
    simplified: Any = rewrite_graph(graph, include=("canonicalize", "stabilize"), clone=False)
    return list(simplified.outputs)


def _write(variable: Any, known: dict[Any, str], by_text: dict[str, str], lines: list[str]) -> str:
    """The name or literal that holds ``variable``, after appending the lines that compute it."""
    if variable in known:
        return known[variable]
    if variable.owner is None:
        if hasattr(variable, "data"):
            return _literal(variable.data)
        raise ConfigError(f"the model uses a symbol that is no time, state, parameter or covariate: {variable}")
    node = variable.owner
    arguments = [_write(argument, known, by_text, lines) for argument in node.inputs]
    text = _operation(node.op, arguments)
    if text not in by_text:
        by_text[text] = f"v{len(by_text)}"
        lines.append(f"{by_text[text]} = {text}")
    known[variable] = by_text[text]
    return known[variable]


def _literal(data: Any) -> str:
    return f"({data.item()!r})" if data.dtype.kind == "b" else f"({float(data)!r})"


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
