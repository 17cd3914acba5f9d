"""Names from data: what may become a path or a line of text, and what may not."""

import pytest
from pydantic import TypeAdapter, ValidationError

from image_longitudinal.core.names import Digest, FileName, Label, Paragraphs, RelativePath

BAD = {
    FileName: ["", "..", "a/b", "/etc/passwd", ".hidden", "a b", "é", "CON", "nul.txt", "com1", "a.", "x" * 101, "a\n"],
    Label: ["", "\x1b[31mred", "two\nlines", "\u202eleft", "\u200bzero", "\x00", "\x85", "\ud800", "x" * 201],
    Paragraphs: ["\x1b]0;title\x07", "\r", "x" * 10_001],
    RelativePath: ["", "/a", "..", "a/../b", "a\\b", "a\0b", "a\nb", "a/" * 501, "x" * 201],
    Digest: ["", "0" * 63, "0" * 65, "G" * 64, "A" * 64, "0" * 64 + "\n"],
}
GOOD = {
    FileName: ["image-longitudinal-demo", "a", "A.1_b-c", "console"],
    Label: ["eta on ka (η₁)", "CC-BY-4.0", "<b>&"],  # HTML is escaped where it is shown
    Paragraphs: ["@article{x,\n  year = {2024},\n}"],
    RelativePath: ["dataset.json", ".run.json", "a/b=0.5/c.bin", "observations/rho2-0.5/train/00000.parquet"],
    Digest: ["0123456789abcdef" * 4],
}


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in BAD.items() for text in texts])
def test_a_bad_name_is_refused_and_the_message_is_printable(kind: type, text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(text)
    assert caught.value.errors()[0]["msg"].isprintable()


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in GOOD.items() for text in texts])
def test_a_good_name_is_kept(kind: type, text: str) -> None:
    assert TypeAdapter(kind).validate_python(text) == text
