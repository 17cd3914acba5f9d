"""Examples in docstrings of the public API, and how they are run."""

import doctest
import inspect
from collections.abc import Iterator
from pathlib import Path

import image_longitudinal as il
from image_longitudinal.storage.dataset.arrow_table import ArrowTable
from image_longitudinal.storage.dataset.loaders import SubjectStream
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.storage.dataset.rows import Rows
from image_longitudinal.storage.dataset.subject import Subject
from image_longitudinal.storage.dataset.view import View

RUNS = (  # flows, fits and kernels that are compiled: minutes
    "evaluate", "evaluate_study", "generate", "load_model", "score", "simulate", "simulate_study", "fit",
    "predict", "search_covariates", "compare_fits",
)  # fmt: skip
CLASSES = (Dataset, Rows, View, Subject, ArrowTable, SubjectStream)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def public() -> Iterator[tuple[str, object]]:
    """Every name of the package, and the classes of what it returns with their public members."""
    for name in il.__all__:
        if name != "__version__":
            yield name, getattr(il, name)
    for kind in CLASSES:
        yield kind.__name__, kind
        for name, member in vars(kind).items():
            if inspect.isfunction(member) or isinstance(member, property):
                yield f"{kind.__name__}.{name}", member


def examples(name: str, thing: object) -> list[doctest.DocTest]:
    """The examples of one docstring, with ``il`` and ``data`` (datasets/demo) as the reference promises."""
    source = thing.fget if isinstance(thing, property) else thing
    text = inspect.getdoc(source) or ""
    names = {"il": il, "data": il.open_dataset("datasets/demo")}
    found = doctest.DocTestParser().get_doctest(text, names, name, None, None)
    return [found] if found.examples else []


def failures(test: doctest.DocTest) -> str:
    """What the examples of one docstring print in place of what is promised; empty if all is well."""
    printed: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=printed.append)
    return "".join(printed)


def demo(folder: Path) -> list[str]:
    """The command that makes ``datasets/demo`` of the examples: the preset demo, with phantoms for a trained model."""
    return ["generate", "--set", "generator.backend=phantom", "--output", str(folder / "datasets" / "demo")]
