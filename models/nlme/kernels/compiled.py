"""Functions that only other compiled functions call: how they are compiled, and loops over small arrays.

numba optimises a function together with all that it calls and makes machine code of it, and does both again in every
caller: a kernel of five levels costs five times what it could. Functions of this module's kinds are handed to their
callers as they are; the kernel at the end optimises everything once.
"""

from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

from numba import _dynfunc, njit, types
from numba.core import cgutils
from numba.core.compiler import CompilerBase, DefaultPassBuilder, _LowerResult
from numba.core.compiler_machinery import register_pass
from numba.core.lowering import Lower
from numba.core.typed_passes import BaseNativeLowering, NativeLowering
from numba.extending import intrinsic

Compiled: TypeAlias = Callable[..., Any]


class _Apart(Lower):
    def pre_lower(self) -> None:
        super().pre_lower()
        self.builder.function.attributes.add("noinline")


class _Inlined(Lower):
    def pre_lower(self) -> None:
        super().pre_lower()
        self.builder.function.attributes.add("alwaysinline")


class _Inner(BaseNativeLowering):
    """Lowers a function to code that is neither optimised nor turned into machine code: its callers do both."""

    def run_pass(self, state: Any) -> bool:
        context, flags = state.targetctx, state.flags
        library = state.library = context.codegen().create_library(state.func_id.func_qualname)

        def finalised() -> None:
            library._finalized = True

        library._optimize_functions = lambda module: None
        library._optimize_final_module = lambda: None
        library._finalize_final_module = finalised
        kept, flags.no_compile = flags.no_compile, True
        try:
            super().run_pass(state)
        finally:
            flags.no_compile = kept
        found = state["cr"]
        of, name = found.fndesc, found.fndesc.qualname.split(".")[-1]
        # what numba's table of functions needs; with no address, because nothing calls it from Python
        key = _dynfunc.make_function(of.lookup_module(), name, "", 0, found.env, (library,))
        context.insert_user_function(key, of, [library])
        state["cr"] = _LowerResult(of, found.call_helper, cfunc=key, env=found.env)
        return True


@register_pass(mutates_CFG=True, analysis_only=False)
class _InnerLowering(_Inner):
    _name = "inner_lowering"

    @property
    def lowering_class(self) -> type[Lower]:
        return Lower


@register_pass(mutates_CFG=True, analysis_only=False)
class _ApartLowering(_Inner):
    _name = "apart_lowering"

    @property
    def lowering_class(self) -> type[Lower]:
        return _Apart


@register_pass(mutates_CFG=True, analysis_only=False)
class _InlinedLowering(_Inner):
    _name = "inlined_lowering"

    @property
    def lowering_class(self) -> type[Lower]:
        return _Inlined


class _InnerCompiler(CompilerBase):
    lowering: ClassVar[type[_Inner]] = _InnerLowering

    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        own = [(self.lowering if one is NativeLowering else one, text) for one, text in passes.passes]
        passes.passes = own
        passes._finalized = False
        passes.finalize()
        return [passes]


class _ApartCompiler(_InnerCompiler):
    lowering = _ApartLowering


class _InlinedCompiler(_InnerCompiler):
    lowering = _InlinedLowering


def _inner(pipeline: type[_InnerCompiler]) -> Callable[[Compiled], Any]:
    """A decorator, without entry points from Python and C, which would only add compile time."""
    options = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    decorator: Callable[[Compiled], Any] = njit(pipeline_class=pipeline, **options)
    return decorator


compiled = _inner(_InnerCompiler)
# As ``compiled``, but LLVM makes no copies at the places of call: for what is called rarely and from many of them.
apart = _inner(_ApartCompiler)
# As ``compiled``, but a part of its callers in any case: for what is called at every observation. A record of 15 arrays
# as an argument is a copy of 100 words.
inlined = _inner(_InlinedCompiler)


def without_owner(context: Any, builder: Any, kind: types.Type, value: Any) -> Any:
    """An array, or a tuple with arrays, that does not count who refers to it, from the same value that does."""
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        array.meminfo = cgutils.get_null_value(array.meminfo.type)
        return array._getvalue()
    if isinstance(kind, types.BaseTuple):
        parts = zip(cgutils.unpack_tuple(builder, value), kind, strict=True)
        own = [without_owner(context, builder, inner, part) for part, inner in parts]
        return context.make_tuple(builder, kind, own)
    return value


@intrinsic
def borrowed(typing: Any, value: Any) -> Any:
    """An argument of a kernel, whose arrays its caller keeps, without the counting of references.

    Each function that an array is handed to counts up and down, by atomic operations: of a record of 15 arrays, 30 of
    them take longer than a subject's predictions.
    """

    def generate(context: Any, builder: Any, call_signature: Any, values: Any) -> Any:
        return without_owner(context, builder, call_signature.args[0], values[0])

    return value(value), generate


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
