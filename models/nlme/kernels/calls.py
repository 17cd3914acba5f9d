"""Calls of one model's functions from kernels that serve every model, by address.

So the code that is the same for all models (events, steady states, the individual level of estimation) is compiled
once, not once per model. A model is an int64 array: the addresses of its functions and its sizes, at the positions
below.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, typeof, types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.core.types.function_type import CompileResultWAP
from numba.core.typing import Signature, signature
from numba.extending import intrinsic
from numpy.typing import NDArray

from image_longitudinal.models.nlme.kernels.compiled import without_owner
from image_longitudinal.models.nlme.kernels.records import EventArrays, new_state, new_workspace

SOLVE, ADVANCE, RHS, INITIAL, OUTPUT, DOSING, RATES, N_STATES, N_PARAMETERS, N_COVARIATES, N_DEPOTS, PLACES = range(12)

_real, _integer = types.float64, types.int64
_vector, _matrix, _integers = _real[::1], _real[:, ::1], _integer[::1]
_arrays = dict.fromkeys(EventArrays._fields, _vector) | {
    "censored": types.boolean[::1], "covariates": _matrix,
    **dict.fromkeys(("row_start", "before", "endpoint", "event_start", "kind", "compartment"), _integers),
}  # fmt: skip
_data = types.NamedTuple(list(_arrays.values()), EventArrays)
_state, _workspace = typeof(new_state.py_func(1, 1)), typeof(new_workspace.py_func(1, 1))

SIGNATURES: dict[int, Signature] = {
    SOLVE: signature(  # kernels.event_integration.solve_events
        types.UniTuple(_integer, 2), _integers, _matrix, _data, _integer, types.boolean, _real, _vector, _matrix
    ),
    ADVANCE: signature(_real, _real, _real, _state, _vector, _real, _real, _workspace),  # kernels.esdirk.make_advance
    # codegen.ENTRIES; functions without a result return 0
    RHS: signature(_real, _real, _vector, _vector, _vector),
    INITIAL: signature(_real, _real, _vector, _vector, _matrix),
    OUTPUT: signature(_real, _integer, _real, _vector, _vector, _vector, _vector),
    DOSING: signature(_real, _real, _vector, _vector, _matrix),
    RATES: signature(_real, _real, _vector, _vector, _matrix),
}


class Solver(NamedTuple):
    """What :func:`bind` returns, and the tolerance per step that is usual."""

    model: Callable[[], NDArray[np.int64]]
    run: Callable[..., tuple[int, int]]
    TOLERANCE: float


# How a model's functions that others call are compiled.
entry = njit(cache=True, nogil=True, error_model="numpy", no_cpython_wrapper=True)


def bind(
    solve: Any, functions: dict[int, Any], states: int = 0, parameters: int = 0, covariates: int = 0,
    depots: int = 0, places: tuple[int, ...] = (),
) -> tuple[Callable[[], NDArray[np.int64]], Callable[..., tuple[int, int]]]:  # fmt: skip
    """The array that stands for a model, and its solver, from the compiled functions of its module.

    ``solve``: as :func:`models.nlme.kernels.event_integration.solve_events`; ``functions``: those that others call, by
    position; ``states``, ``parameters``, ``covariates``: their numbers; ``depots``, ``places``: of linear compartments
    (kernels.linear_form.LinearForm). Returns ``model()``, which compiles at its first call, and ``run``: ``solve``
    without its first argument.
    """

    @lru_cache(maxsize=1)
    def model() -> NDArray[np.int64]:
        array = np.zeros(PLACES + len(places), dtype=np.int64)
        for position, function in {SOLVE: solve, **functions}.items():
            array[position] = CompileResultWAP(function.get_compile_result(SIGNATURES[position])).address
        array[N_STATES:] = states, parameters, covariates, depots, *places
        return array

    def run(*arguments: Any) -> tuple[int, int]:
        failed, reason = solve(model(), *arguments)
        return failed, reason

    return model, run


def _caller(position: int) -> Any:
    expected = SIGNATURES[position]

    @intrinsic
    def call(typing: Any, model: Any, arguments: Any) -> Any:
        """Call the function at ``position`` of a model with a tuple of arguments."""
        got = tuple(types.unliteral(argument) for argument in arguments)
        if got != expected.args:
            raise TypingError(f"expected arguments {expected.args}, got {got}")

        def generate(context: Any, builder: Any, call_signature: Any, values: Any) -> Any:
            array = context.make_array(call_signature.args[0])(context, builder, values[0])
            address = builder.load(cgutils.gep_inbounds(builder, array.data, position))
            kinds = [context.get_value_type(kind) for kind in expected.args]
            kind = ir.FunctionType(context.get_value_type(expected.return_type), kinds).as_pointer()
            given = zip(cgutils.unpack_tuple(builder, values[1]), arguments, expected.args, strict=True)
            cast = [
                without_owner(context, builder, there, context.cast(builder, value, here, there))
                for value, here, there in given
            ]
            return builder.call(builder.inttoptr(address, kind), cast)

        return expected.return_type(model, arguments), generate

    return call


call_solve, call_advance, call_rhs = _caller(SOLVE), _caller(ADVANCE), _caller(RHS)
call_initial, call_output, call_dosing = _caller(INITIAL), _caller(OUTPUT), _caller(DOSING)
call_rates = _caller(RATES)
