"""Functions that only other compiled functions call: how they are compiled, and loops over small arrays."""

from collections.abc import Callable
from typing import Any, TypeAlias

from numba import njit
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.lowering import Lower
from numba.core.typed_passes import BaseNativeLowering, NativeLowering

Compiled: TypeAlias = Callable[..., Any]

# Without entry points from Python and C, which would only add compile time.
compiled = njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)


class _Apart(Lower):
    def pre_lower(self) -> None:
        super().pre_lower()
        self.builder.function.attributes.add("noinline")


@register_pass(mutates_CFG=True, analysis_only=False)
class _ApartLowering(BaseNativeLowering):
    _name = "apart_lowering"

    @property
    def lowering_class(self) -> type[Lower]:
        return _Apart


class _ApartCompiler(CompilerBase):
    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        own = [(_ApartLowering if one is NativeLowering else one, text) for one, text in passes.passes]
        passes.passes = own
        passes._finalized = False
        passes.finalize()
        return [passes]


# As ``compiled``, but LLVM makes no copies at the places of call: for what is called rarely and from many of them.
apart = njit(
    nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, pipeline_class=_ApartCompiler
)


@compiled
def assign(target, source):  # type: ignore[no-untyped-def]
    """target ← source, (n,); a loop, because array expressions take numba a hundred times longer to compile."""
    for i in range(target.size):
        target[i] = source[i]


@compiled
def assign2(target, source):  # type: ignore[no-untyped-def]
    """target ← source, (n, m)."""
    for i in range(target.shape[0]):
        for j in range(target.shape[1]):
            target[i, j] = source[i, j]


@compiled
def zero(target):  # type: ignore[no-untyped-def]
    """target ← 0, (n,)."""
    for i in range(target.size):
        target[i] = 0.0


@compiled
def zero2(target):  # type: ignore[no-untyped-def]
    """target ← 0, (n, m)."""
    for i in range(target.shape[0]):
        for j in range(target.shape[1]):
            target[i, j] = 0.0


@compiled
def norm(a):  # type: ignore[no-untyped-def]
    """The largest sum of absolute values in a row of a (n, n)."""
    largest = 0.0
    for i in range(a.shape[0]):
        total = 0.0
        for j in range(a.shape[1]):
            total += abs(a[i, j])
        largest = max(largest, total)
    return largest
