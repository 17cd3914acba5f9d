"""Digests: the same for equal values in every process, different for values that merely look alike."""

import hashlib
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from image_longitudinal.core.config import Config
from image_longitudinal.core.digest import canonical_json, digest_of, file_sha256

numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=5,
)


def test_a_published_digest_never_changes() -> None:
    assert canonical_json({"z": (1, None, True), "x": 0.1}) == '{"x":0.1,"z":[1,null,true]}'
    assert digest_of("a", 1, {"x": 0.1}) == hashlib.sha256(b'["a",1,{"x":0.1}]').hexdigest()


@given(st.dictionaries(st.text(max_size=4), values, min_size=2, max_size=4))
def test_the_order_of_keys_does_not_matter(value: dict[str, object]) -> None:
    assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)


@given(values, values)
def test_different_values_have_different_digests(first: object, second: object) -> None:
    assert (digest_of(first) == digest_of(second)) == (canonical_json(first) == canonical_json(second))
    if first != second:
        assert canonical_json(first) != canonical_json(second)


def test_near_equal_values_are_told_apart() -> None:
    alike: list[tuple[object, ...]] = [
        (1,), (1.0,), (True,), ("1",), (None,), ("null",), (0.1,), (np.nextafter(0.1, 1),), (0.1 + 0.2,), (0.3,),
        ([1, 2],), (1, 2), ([1], 2), ("a", "b"), ("ab",), ("a,b",), ({"a": 1},), ({"a": [1]},), ({},), ([],), (), ("",),
        (-0.0,), (0.0,), (0,), (False,),
    ]  # fmt: skip
    digests = [digest_of(*value) for value in alike]
    for (one, first), (two, second) in itertools.combinations(zip(alike, digests, strict=True), 2):
        assert first != second, f"{one} and {two}"


def test_tuples_models_and_paths_have_the_digest_of_their_plain_values() -> None:
    assert digest_of((1, (2,))) == digest_of([1, [2]])
    assert digest_of(Config()) == digest_of(Config().model_dump(mode="json"))
    assert digest_of(Path("a/b")) == digest_of("a/b")


@pytest.mark.parametrize(
    "value",
    [{1, 2}, frozenset("ab"), torch.zeros(2), np.zeros(2), np.int64(3), object(), b"bytes", {"deep": [{3}]}],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_stable_text_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        digest_of(value)


def test_keys_that_would_overwrite_each_other_and_undefined_numbers_are_refused() -> None:
    with pytest.raises(TypeError, match="same text"):
        digest_of({1: "a", "1": "b"})
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            digest_of(value)


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    assert file_sha256(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
