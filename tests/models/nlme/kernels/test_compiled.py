"""Functions that only other compiled functions call: right results, and code where it was meant to be."""

import numpy as np
from numba import njit

from image_longitudinal.models.nlme.kernels.compiled import apart, compiled, inlined


@compiled
def doubled(x):  # type: ignore[no-untyped-def]
    return 2.0 * x


@inlined
def part_of_its_caller(x):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(x.size):
        total += doubled(x[i])
    return total


@apart
def a_function_of_its_own(x):  # type: ignore[no-untyped-def]
    return part_of_its_caller(x) + part_of_its_caller(x[1:])


@njit
def entrance(x):  # type: ignore[no-untyped-def]
    return a_function_of_its_own(x) - doubled(x[0])


def test_calls_through_every_kind_are_right_and_code_is_where_it_was_meant_to_be() -> None:
    assert entrance(np.array([1.0, 2.0, 4.0])) == 14.0 + 12.0 - 2.0
    (code,) = entrance.inspect_llvm().values()
    defined = [line for line in code.splitlines() if line.startswith("define")]
    assert any("a_function_of_its_own" in line for line in defined)
    assert not any("part_of_its_caller" in line for line in defined)


def test_no_machine_code_is_made_of_a_function_that_its_callers_hold() -> None:
    entrance(np.ones(2))
    (found,) = doubled.overloads.values()
    engine = found.library.codegen._engine
    assert not engine.is_symbol_defined(found.fndesc.llvm_func_name)
