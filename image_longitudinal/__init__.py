"""Benchmark data sets of synthetic medical images paired with longitudinal outcomes.

Read a data set (base installation; the loaders need torch)::

    import image_longitudinal as il

    data = il.open_dataset("datasets/demo")
    data.images[0:64], data[17], data.observations(level=0.5, split="test").to_pandas()
    loader = data.torch(split="train", fields=("image", "linked_eta"), batch_size=64)

Make, evaluate and score one, simulate and fit a population model (``pip install 'image-longitudinal[pipeline]'``)::

    url = il.generate("datasets/demo", preset="demo")
    figures = il.evaluate(url)
    fit = il.fit(il.simulate("trial.csv"), "trial-fit", method="focei")

Names are loaded when they are first used: the import itself is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from image_longitudinal.api import (
        compare_fits,
        evaluate,
        evaluate_study,
        fit,
        generate,
        load_model,
        predict,
        score,
        search_covariates,
        simulate,
        simulate_study,
    )
    from image_longitudinal.storage.dataset.loaders import SubjectDataset, SubjectLoader
    from image_longitudinal.storage.dataset.reader import open_dataset

    __version__: str

__all__ = [
    "SubjectDataset", "SubjectLoader", "__version__", "compare_fits", "evaluate", "evaluate_study", "fit", "generate",
    "load_model", "open_dataset", "predict", "score", "search_covariates", "simulate", "simulate_study",
]  # fmt: skip

_ROOM_OF = {
    "SubjectDataset": "storage.dataset.loaders",
    "SubjectLoader": "storage.dataset.loaders",
    "open_dataset": "storage.dataset.reader",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("image-longitudinal")
    elif name in __all__:
        from image_longitudinal.core.errors import naming_missing_extra

        with naming_missing_extra():
            value = getattr(import_module(f"image_longitudinal.{_ROOM_OF.get(name, 'api')}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
