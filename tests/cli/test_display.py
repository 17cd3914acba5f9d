"""What is seen while a command works: live rows on a terminal, plain lines in a file, nothing with --quiet."""

import re
import subprocess
import sys

import pytest

from docs.recording import Screen
from tests.cli.terminal import in_terminal

WORK = """
import logging, sys, time
from image_longitudinal.cli import display
from image_longitudinal.cli.console import note, print_result, printing
from image_longitudinal.core.progress import Counter, Step, report
display.SILENCE, display.LINE_SECONDS = 0.6, 0.4
with printing("distill", quiet="quiet" in sys.argv):
    note("the plan")
    counter = Counter("train student", 8, "steps")
    for done in range(1, 9):
        time.sleep(0.12)
        counter.update(done, "loss 0.1, a text that is longer than any terminal " + 99 * "x")
    logging.getLogger("image_longitudinal.test").info("half of it")
    outer, inner = Counter("make subjects", 2, "subjects"), Counter("render shard 7", 2, "images")
    time.sleep(0.4)
    inner.update(1)
    time.sleep(0.8)
    inner.update(2)
    outer.update(2)
    report(Step("compare samplers"))
    time.sleep(2.6)
    print_result("out")
"""
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def test_a_terminal_shows_rows_that_count_and_what_is_silent() -> None:
    status, seen = in_terminal(WORK)
    text = CODES.sub("", seen)
    assert status == 0
    assert re.search(r"train student.*[3-7]/8 steps +[\d.]+/s +\d s left", text)
    assert re.search(r"compare samplers: at work for \d s", text)
    assert re.search(r"render shard 7.*1/2 images", text)
    assert "render shard 7: 2 images" not in text  # within other work
    lines = re.split(r"[\r\n]+", text)
    for line in (
        "the plan",
        r"train student: 8 steps in \d s",
        "half of it",
        r"make subjects: 2 subjects in \d s",
        "done: out",
    ):
        assert any(re.fullmatch(line, one) for one in lines), line
    assert text.index("the plan") < text.index("half of it") < text.index("compare samplers:") < text.index("done: out")
    screen = Screen()
    screen.feed(seen)
    assert [line for line in screen.text().splitlines() if line] == [
        one for one in screen.text().splitlines() if one and "at work" not in one and "/" not in one
    ]  # no row is left
    assert seen.rfind("\x1b[?25h") > seen.rfind("\x1b[?25l")  # the cursor is visible at the end


@pytest.mark.parametrize("columns", [40, 60, 130])
def test_rows_fit_the_terminal(columns: int) -> None:
    _, seen = in_terminal(WORK, columns=columns)
    for line in re.split(r"[\r\n]+", CODES.sub("", seen)):
        assert len(line) <= columns
    assert ("loss 0.1" in seen) == (columns > 100)


def test_no_colour_is_written_where_none_is_wanted() -> None:
    colours = re.compile(r"\x1b\[[0-9;]*(3[0-7]|38;[0-9;]*|9[0-7])m")
    assert colours.search(in_terminal(WORK)[1])
    assert not colours.search(in_terminal(WORK, NO_COLOR="1")[1])


def test_a_dumb_terminal_gets_plain_lines() -> None:
    _, seen = in_terminal(WORK, TERM="dumb")
    assert "\x1b" not in seen
    assert "train student: 8 of 8 steps" in seen


def test_a_file_gets_plain_lines_now_and_then() -> None:
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert done.stdout.split() == ["the", "plan", "done:", "out"]
    counted = [
        line for line in lines if re.match(r"train student: [2-7] of 8 steps, [1-6] to go, [\d.]+ steps/s, ", line)
    ]
    assert 1 <= len(counted) <= 3  # in 1 s or a little more, at most every 0.4 s
    assert "train student: 8 of 8 steps, 0 to go" in done.stderr
    assert "half of it" in lines
    assert "compare samplers" in lines
    assert any(re.fullmatch(r"compare samplers: at work for \d s", line) for line in lines)


def test_quiet_leaves_the_result_alone() -> None:
    done = subprocess.run([sys.executable, "-c", WORK, "quiet"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("out\n", "")
