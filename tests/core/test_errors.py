"""Errors: one line that says what, where, what was expected, what came and what to do."""

import pickle

import pytest

from image_longitudinal.core import errors
from image_longitudinal.core.errors import (
    ImageLongitudinalError,
    MissingExtraError,
    ModelError,
    did_you_mean,
    naming_missing_extra,
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "it failed"), ({"where": "here"}, "it failed (here)"), ({"got": 0}, "it failed; got 0"),
        ({"expected": "1"}, "it failed; expected 1"), ({"do": "wait"}, "it failed. Wait"),
        ({"got": "a sentence.", "do": "wait"}, "it failed; got a sentence. Wait"),
        ({"do": "wait", "got": 3, "expected": "1", "where": "here"}, "it failed (here); expected 1; got 3. Wait"),
    ],
)  # fmt: skip
def test_the_message_has_the_given_parts_in_order(arguments: dict[str, object], message: str) -> None:
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
    [
        ("torch", "pipeline"), ("prefect.client", "pipeline"), ("s3fs", "s3"),
        ("bm3d", "bm3d"), ("h5py", "judge"), ("duckdb", "analysis"),
    ],
)  # fmt: skip
def test_a_missing_package_names_its_extra(module: str, extra: str) -> None:
    named = rf"pip install 'image-longitudinal\[{extra}\]'"
    with pytest.raises(MissingExtraError, match=named), naming_missing_extra():
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)


def test_another_failed_import_is_not_touched() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), naming_missing_extra():
        import no_such_module  # noqa: F401


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("dmeo", "did you mean demo?"), ("Demo", "did you mean demo?"), ("scan", "did you mean scans?"),
        ("x", None), ("", None), ("n_subjects", "did you mean dataset.n_subjects?"),
    ],
)  # fmt: skip
def test_a_close_name_is_asked_for(name: str, answer: str | None) -> None:
    assert did_you_mean(name, ("demo", "scans", "small", "paper", "dataset.n_subjects")) == answer
