"""The recorder of docs: what a terminal would show, without waiting time, as a picture."""

from xml.dom import minidom

from docs.recording import COLUMNS, Frame, Screen, svg, thinned


def test_the_screen_is_what_a_terminal_shows() -> None:
    screen = Screen()
    screen.feed("one\r\n\x1b[32mtw\x1b[0mo\r\n⠋ 1/9\r\x1b[2K⠋ 2/9\r\n\r\x1b[2K\x1b[1A\x1b[2Kthree")
    assert screen.text() == "one\ntwo\nthree\n"
    assert screen.view()[1][0] != screen.view()[1][2][0]
    screen.feed("\r\n" + "x" * (COLUMNS + 1))
    assert screen.text().splitlines()[3:] == ["x" * COLUMNS, "x"]


def frame(*rows: str) -> Frame:
    return Frame(tuple(tuple((letter, "#fff") for letter in row) for row in rows), 0.5)


def test_waiting_is_shortened_and_the_last_state_kept() -> None:
    frames = [frame("plan", f"at work for {second} s") for second in range(100)]
    kept = list(thinned([frame("plan"), *frames, frames[-1], frame("plan", "done", "next")]))
    assert len(kept) <= 1 + 8 + 1
    assert frames[-1] in kept
    assert kept[0] == frame("plan")
    assert kept[-1] == frame("plan", "done", "next")


def test_the_picture_holds_every_frame() -> None:
    page = minidom.parseString(svg([frame("a < b & c"), frame("a < b & c", "d")]))
    texts = [node.firstChild.data for node in page.getElementsByTagName("text")]  # type: ignore[union-attr]
    assert texts == ["a < b & c", "a < b & c", "d"]
