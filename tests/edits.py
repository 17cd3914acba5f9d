"""Every way to change one statement of a JSON document: for tests that hold a document against itself."""

import copy
from collections.abc import Iterator
from typing import Any

Place = tuple[str | int, ...]


def edits(content: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """The place of each value, and another value of the same form for it; also each list without its last entry."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from edits(value, (*place, key))
        return
    if isinstance(content, list):
        for index, value in enumerate(content):
            yield from edits(value, (*place, index))
        if len(content) > 1:
            yield place, content[:-1]
        return
    if isinstance(content, bool):
        yield place, not content
    elif isinstance(content, int | float):
        yield place, content + 1 if isinstance(content, int) else content * 1.5 + 0.25
    elif isinstance(content, str):
        yield place, other_text(content)
    else:
        yield place, 3


def other_text(text: str) -> str:
    """Another text: another hexadecimal digit, another day, or a letter more."""
    if len(text) == 64 and all(one in "0123456789abcdef" for one in text):
        return ("1" if text[0] != "1" else "2") + text[1:]
    if len(text) == 10 and text[4] == text[7] == "-":
        return text[:9] + ("1" if text[9] != "1" else "2")
    return f"{text}x"


def changed(content: Any, place: Place, value: Any) -> Any:
    """A copy of a document with one value changed."""
    content = copy.deepcopy(content)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return content
