"""From the symbolic model to compiled kernels: PyTensor graphs of scalars written out as numba functions.

The generated source is one file per model in the user's cache folder, named by the digest of its own text and of the
integrator's. So numba's on-disk cache serves the next process, and an edited model never uses an old kernel. The
equations are compiled into the integrator, which evaluates them millions of times; all other kernels call the model by
address (:mod:`models.nlme.kernels.calls`) and are compiled once for all models.
"""

import importlib
import importlib.util
import inspect
import sys
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.files import write_atomically
from image_longitudinal.models.nlme.kernels import calls
from image_longitudinal.models.nlme.kernels.cached import cache_folder, digest_of_sources
from image_longitudinal.models.nlme.kernels.digamma import digamma
from image_longitudinal.models.nlme.kernels.graphs import jacobian, simplify, write
from image_longitudinal.models.nlme.kernels.linear_form import LinearForm, linear_form
from image_longitudinal.models.nlme.model.structural import StructuralModel
from image_longitudinal.models.nlme.model.symbolic import SymbolicSystem, trace

KERNELS = Path(__file__).parent
PARTS = ("compiled", "records", "dop853", "esdirk", "calls")  # modules that are compiled into a generated file
LINEAR_PARTS = ("compiled", "calls")

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

INTEGRATED = """from image_longitudinal.models.nlme.kernels import event_integration
from image_longitudinal.models.nlme.kernels.codegen import private_copy
from image_longitudinal.models.nlme.kernels.esdirk import TOLERANCE
"""

LINEAR_FOOTER = (
    _WITH_GRADIENT.format(name="rates")
    + """
from image_longitudinal.models.nlme.kernels.linear import TOLERANCE, solve_boluses, solve_linear

FUNCTIONS = {{{functions}, calls.RATES: called_rates}}
SIZES = N_STATES, N_PARAMETERS, N_COVARIATES, DEPOTS, PLACES
model, run = calls.bind(solve_linear, FUNCTIONS, *SIZES)
boluses = None if MODELLED else calls.Solver(*calls.bind(solve_boluses, FUNCTIONS, *SIZES), TOLERANCE)
"""
)
ONE_COMPARTMENT_FOOTER = (
    LINEAR_FOOTER
    + _WITH_GRADIENT.format(name="scaled_rates")
    + """
from image_longitudinal.models.nlme.kernels.one_compartment import solve_one_compartment

SIZES = N_STATES, N_PARAMETERS, N_COVARIATES, DEPOTS, (*PLACES, ENDPOINTS)
boluses = calls.Solver(*calls.bind(solve_one_compartment, {{calls.RATES: called_scaled_rates}}, *SIZES), TOLERANCE)
"""
)

FOOTER = """
FUNCTIONS = {{{functions}}}
model, run = calls.bind(event_integration.solve_events, FUNCTIONS, N_STATES, N_PARAMETERS, N_COVARIATES)
"""


_LOADING = threading.RLock()  # reentrant: a kernel loads its private copies


@lru_cache(maxsize=64)
def generated_kernel(model: StructuralModel) -> ModuleType:
    """The model's compiled functions: ``run`` (:func:`models.nlme.kernels.calls.bind`), ``rhs``, ``jacobian``, ...

    Raises:
        ConfigError: the model's equations use an operation that has no compiled form.
    """
    return _module(generate_source(model), PARTS)


@lru_cache(maxsize=64)
def linear_kernel(model: StructuralModel) -> ModuleType | None:
    """The compiled functions of a model of linear compartments, solved in closed form; None of any other."""
    system = trace(model)
    form = linear_form(system)
    return None if form is None else _module(generate_linear_source(model, system, form), LINEAR_PARTS)


def _module(source: str, parts: Sequence[str]) -> ModuleType:
    """The module of generated source, in a file named by its digest and that of what is compiled into it."""
    texts = ((KERNELS / f"{part}.py").read_text(encoding="utf-8") for part in parts)
    name = f"nlme_kernel_{digest_of(source, *texts)[:24]}"
    with _LOADING:  # a module is in sys.modules before it is whole
        if name in sys.modules:
            return sys.modules[name]
        path = cache_folder() / f"{name}.py"
        if not path.exists():
            write_atomically(path, source)  # other processes see the whole file or none
        return _load(name, path)


def solver_kernel(
    model: StructuralModel, *, plain: bool = True, stepwise: bool = True, boluses: bool = False
) -> ModuleType | calls.Solver:
    """The fastest solver of a model, or a module that is one: hand-written, in closed form, or generated.

    ``plain``: every event is a dose of known amount and rate, which hand-written kernels require; ``stepwise``:
    covariates are constant between events, which the closed form of linear compartments requires; ``boluses``: every
    event is a dose that takes effect at once, for which the closed form has a smaller kernel.
    """
    if model.kernel and plain:
        return importlib.import_module(model.kernel)
    linear = linear_kernel(model) if stepwise else None
    if linear is None:
        return generated_kernel(model)
    own: calls.Solver | None = linear.boluses if boluses else None
    return linear if own is None else own


def solver_digest(model: StructuralModel) -> str:
    """Digest of all code that decides a model's predictions and estimates."""
    solver = solver_kernel(model)
    assert isinstance(solver, ModuleType)
    # (the name of a generated one is the digest of its text)
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
    """Python source of the model's compiled functions, for the integrator.

    Their argument ``p`` holds the parameters (m), the covariates' values (c) at a time, their slopes (c), that time,
    and the value observed, on which log densities depend.
    """
    from pytensor.graph.traversal import explicit_graph_inputs

    system = trace(model)
    x, p = system.states, system.parameters
    derivatives = jacobian(system.derivatives, x)
    functions_of = _Functions(system)
    functions = [
        functions_of("rhs", "t, x, p, out", _entries("out", x), system.derivatives),
        functions_of("jacobian", "t, x, p, out", _cells(x, x), derivatives),
        functions_of("parameter_jacobian", "t, x, p, out", _cells(x, p), jacobian(system.derivatives, p)),
        *functions_of.common(),
    ]
    linear = not set(x) & set(explicit_graph_inputs(simplify(derivatives)))  # the Jacobian does not contain the states
    sizes = (
        f"LINEAR, MODELLED = {linear}, {bool(system.dosing)}\n"
        f"N_STATES, N_PARAMETERS, N_COVARIATES = {len(x)}, {len(p)}, {len(system.covariates)}\n\n\n"
    )
    called = [name for name in ENTRIES if name in ("OUTPUT", "INITIAL") or (x and (name != "DOSING" or system.dosing))]
    return _file(model, INTEGRATED, sizes, functions, called, FOOTER)


def generate_linear_source(model: StructuralModel, system: SymbolicSystem, form: LinearForm) -> str:
    """As :func:`generate_source`, for the closed form of linear compartments."""
    functions_of = _Functions(system)
    rates, p = form.rates, system.parameters
    functions = [
        functions_of("rates", "t, p, out", _entries("out", rates), rates),
        functions_of("rates_gradient", "t, p, out", _cells(rates, p), jacobian(rates, p)),
        *functions_of.common(),
    ]
    footer = LINEAR_FOOTER
    if form.scales:
        footer, rates = ONE_COMPARTMENT_FOOTER, [*rates, *form.scales]
        functions += [
            functions_of("scaled_rates", "t, p, out", _entries("out", rates), rates),
            functions_of("scaled_rates_gradient", "t, p, out", _cells(rates, p), jacobian(rates, p)),
        ]
    sizes = (
        f"MODELLED, DEPOTS, PLACES = {bool(system.dosing)}, {form.depots}, {form.places}\n"
        f"ENDPOINTS = {len(form.scales)}\n"
        f"N_STATES, N_PARAMETERS, N_COVARIATES = {len(system.states)}, {len(p)}, {len(system.covariates)}\n\n\n"
    )
    called = ["OUTPUT", "INITIAL", *(["DOSING"] if system.dosing else [])]
    return _file(model, "", sizes, functions, called, footer)


class _Functions:
    """Writes expressions of a model as functions that compiled ones call."""

    def __init__(self, system: SymbolicSystem) -> None:
        m, c = len(system.parameters), len(system.covariates)
        self.system, self.names = system, {system.time: "t"}
        self.names |= {variable: f"x[{i}]" for i, variable in enumerate(system.states)}
        self.names |= {variable: f"p[{i}]" for i, variable in enumerate(system.parameters)}
        self.names |= {variable: f"c{i}" for i, variable in enumerate(system.covariates)}
        self.names[system.observed] = f"p[{m + 2 * c + 1}]"
        self.head = [f"c{i} = p[{m + i}] + p[{m + c + i}] * (t - p[{m + 2 * c}])" for i in range(c)]

    def __call__(self, name: str, arguments: str, targets: Sequence[str], expressions: Sequence[Any]) -> str:
        """A function that assigns each expression to its target; equal subexpressions are computed once."""
        lines: list[str] = []
        known, by_text = dict(self.names), dict[str, str]()
        for target, expression in zip(targets, simplify(expressions), strict=True):
            value = write(expression, known, by_text, lines)
            lines.append(f"return {value}" if target == "return" else f"{target} = {value}")
        body = "\n".join(f"    {line}" for line in [*self.head, *lines] or ["pass"])
        return f"@compiled\ndef {name}({arguments}):\n{body}\n"

    def common(self) -> list[str]:
        """Initial values, dosing and outputs."""
        system, x, p = self.system, self.system.states, self.system.parameters
        functions = [
            self("initial", "t, p, out", _entries("out", x), system.initial),
            self("initial_gradient", "t, p, out", _cells(x, p), jacobian(system.initial, p)),
            self("dosing", "t, p, out", _entries("out", system.dosing), system.dosing),
            self("dosing_gradient", "t, p, out", _cells(system.dosing, p), jacobian(system.dosing, p)),
        ]
        targets = [*_entries("by_parameter", p), *_entries("by_state", x)]
        for i, output in enumerate(system.outputs):
            functions.append(self(f"output{i}", "t, x, p", ["return"], [output]))
            arguments = "t, x, p, by_parameter, by_state"
            functions.append(self(f"output_gradient{i}", arguments, targets, jacobian([output], p + x)))
        return functions + [_choice(name, arguments, len(system.outputs)) for name, arguments in (
            ("output", "t, x, p"), ("output_gradient", "t, x, p, by_parameter, by_state"),
        )]  # fmt: skip


def _file(
    model: StructuralModel, imports: str, sizes: str, functions: list[str], called: list[str], footer: str
) -> str:  # fmt: skip
    head = (
        f'"""Compiled functions of the structural model {model.name!r}, generated from its symbolic form."""\n\n'
        "import math\n\nimport numpy as np\n\n"
        "from image_longitudinal.models.nlme.kernels import calls\n"
        "from image_longitudinal.models.nlme.kernels.calls import entry\n"
        f"from image_longitudinal.models.nlme.kernels.compiled import compiled\n{imports}\n"
    )
    names = ", ".join(f"calls.{name}: called_{name.lower()}" for name in called)
    entries = "".join(ENTRIES[name] for name in called)
    if any("digamma(" in function for function in functions):
        functions = [inspect.getsource(digamma.py_func), *functions]
    return head + sizes + "\n\n".join(functions) + "\n" + entries + footer.format(functions=names)


def _entries(name: str, of: Sequence[Any]) -> list[str]:
    return [f"{name}[{i}]" for i in range(len(of))]


def _choice(name: str, arguments: str, n: int) -> str:
    """A function that calls that of the given endpoint."""
    lines = [f"    if endpoint == {i}:\n        return {name}{i}({arguments})" for i in range(n - 1)]
    body = "\n".join([*lines, f"    return {name}{n - 1}({arguments})"])
    return f"@compiled\ndef {name}(endpoint, {arguments}):\n{body}\n"


def _cells(rows: Sequence[Any], columns: Sequence[Any]) -> list[str]:
    return [f"out[{i}, {j}]" for i in range(len(rows)) for j in range(len(columns))]
