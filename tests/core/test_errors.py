"""Errors: one line that says what, where, what was expected, what came and what to do."""

import pickle

import pytest

from image_longitudinal.core import errors
from image_longitudinal.core.errors import ImageLongitudinalError, MissingExtraError, ModelError, naming_missing_extra


def test_the_message_has_all_its_parts_in_order() -> None:
    error = ModelError("weights are missing", where="models/vae", expected="a file", got=3, do="train again")
    assert str(error) == "weights are missing (models/vae); expected a file; got 3. Train again"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "it failed"),
        ({"where": "here"}, "it failed (here)"),
        ({"got": 0}, "it failed; got 0"),
        ({"expected": "1"}, "it failed; expected 1"),
        ({"do": "wait"}, "it failed. Wait"),
        ({"got": "a sentence.", "do": "wait"}, "it failed; got a sentence. Wait"),
    ],
)
def test_parts_that_are_not_given_leave_no_trace(arguments: dict[str, object], message: str) -> None:
    assert str(ModelError("it failed", **arguments)) == message  # type: ignore[arg-type]


def test_a_message_is_one_line_whatever_it_quotes() -> None:
    assert "\n" not in str(ModelError("two\nlines", got=ValueError("first\n  second"), do="try\nagain"))


@pytest.mark.parametrize("name", ["ConfigError", "IngestError", "ModelError", "SimulationError", "StorageError"])
def test_every_family_is_caught_by_the_base_and_survives_a_trip_between_processes(name: str) -> None:
    family = getattr(errors, name)
    error = family("it failed", where="here", do="wait")
    assert isinstance(error, ImageLongitudinalError)
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is family
    assert str(back) == str(error)


@pytest.mark.parametrize(
    ("module", "extra"),
    [("torch", "pipeline"), ("prefect.client", "pipeline"), ("prefect_dask", "dask"), ("s3fs", "s3"), ("bm3d", "bm3d")],
)
def test_a_missing_package_names_its_extra(module: str, extra: str) -> None:
    named = rf"pip install 'image-longitudinal\[{extra}\]'"
    with pytest.raises(MissingExtraError, match=named), naming_missing_extra():
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)


def test_another_failed_import_is_not_touched() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), naming_missing_extra():
        import no_such_module  # noqa: F401
