"""JSON of others: read as it is, or refused with a ValueError that says why."""

import json

import pytest

from image_longitudinal.core.json_input import MAX_DEPTH, MAX_DOCUMENT, parse_json


def test_a_document_is_read_as_by_json() -> None:
    value = {"a": [1, 2.5, None, True, "η"], "b": {"c": -1e-300}}
    assert parse_json(json.dumps(value)) == parse_json(json.dumps(value).encode()) == value
    assert parse_json("[" * MAX_DEPTH + "1" + "]" * MAX_DEPTH)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 65 + "1" + "]" * 65, "more than 64 levels"), ("[" * 1_000_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"), ("[NaN]", "NaN is no JSON"), ("[-Infinity]", "no JSON"),
        ("[1e999]", "too large"), ("1" * 5000, "integer"), (b"\xff", "decode"), ("{", "Expecting"),
        (" " * (MAX_DOCUMENT + 1), "at most"),
    ],
    ids=range(10),
)  # fmt: skip
def test_what_is_no_document_of_ours_is_refused(text: str | bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_json(text)
