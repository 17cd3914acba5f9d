"""What others wrote is shown as text, in a terminal and in markdown."""

import pytest

from image_longitudinal.core.escapes import for_markdown, for_terminal

ATTACKS = {
    "\x1b[2J\x1b[1;31mred": r"\x1b[2J\x1b[1;31mred", "\x1b]0;title\x07": r"\x1b]0;title\x07", "a\rb": r"a\rb",
    "\x9b31m": r"\x9b31m", "\u202egnp.exe": r"\u202egnp.exe", "zero\u200bwidth": r"zero\u200bwidth", "\x00": r"\x00",
    "\ud800": r"\ud800", "\x08\x7f": r"\x08\x7f",
}  # fmt: skip


@pytest.mark.parametrize(("text", "shown"), ATTACKS.items())
def test_control_characters_are_spelled_out(text: str, shown: str) -> None:
    assert for_terminal(text) == shown
    assert for_terminal(shown) == shown, "once is enough"


def test_usual_text_is_kept() -> None:
    text = "η = 0.5 ± 1\n\tsubject 17: €, 漢字, ./path\\name, 100 %"
    assert for_terminal(text) == text


def test_markdown_is_text() -> None:
    assert for_markdown("<script>alert(1)</script>") == "&lt;script&gt;alert(1)&lt;/script&gt;"
    assert for_markdown("a | b\n| c") == r"a \| b \| c"
    assert for_markdown("![x](http://host/pixel.png)") == "![x]&#40;http://host/pixel.png)"
    assert for_markdown("`code` & \x1b[2J") == r"&#96;code&#96; &amp; \x1b[2J"
    assert for_markdown("E[η], rho2-0.5, eta_1 (ka)") == "E[η], rho2-0.5, eta_1 (ka)"
