"""Text that others may have written, made harmless where it is shown: in a terminal, in markdown. Once, at the edge.

HTML is escaped by the templates' own engine, in :func:`tasks.reports.pages.page`.
"""

import json
import re
import unicodedata

_SPECIAL = re.compile(r"[&<>|`]|\]\(")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "\\|", "`": "&#96;", "](": "]&#40;"}
_HARMFUL = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")  # control and format characters, surrogates, unassigned ones


def for_terminal(text: str) -> str:
    """The text with control and format characters as Python writes them (``\\x1b``), except line breaks and tabs.

    A terminal obeys some of them: they colour, move, hide or replace what is printed, or set the window's title.
    """
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(
        repr(one)[1:-1] if one not in "\n\t" and unicodedata.category(one) in _HARMFUL else one for one in text
    )


def for_terminal_json(text: str) -> str:
    """A JSON document for which :func:`for_terminal` is true, and whose strings are the same."""
    return "".join(
        json.dumps(one)[1:-1] if one != "\n" and unicodedata.category(one) in _HARMFUL else one for one in text
    )


def for_markdown(text: str) -> str:
    """The text on one line, which markdown shows as it is: no HTML, link, code or table cell begins in it."""
    return _SPECIAL.sub(lambda found: _ENTITIES[found[0]], " ".join(for_terminal(text).split()))
