"""A real browser for the tests: headless Chromium, driven by its debugging protocol."""

import base64
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.conftest import ROOT

PICTURES = ROOT / "build" / "screenshots"  # kept: a person should look at them now and then
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --remote-debugging-port=0 --window-size=1400,1000"
)


class Browser:
    """One page of a running Chromium."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket, self.ids = socket, itertools.count(1)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the debugging protocol, and its result."""
        number = next(self.ids)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (answer := json.loads(self.socket.recv(60))).get("id") != number:
            pass  # an event
        assert "error" not in answer, answer
        return dict(answer["result"])

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def see(self, url: str, name: str, *texts: str, seconds: float = 120, settle: float = 1) -> str:
        """Open a page, wait until it shows all ``texts`` and settles, keep a picture of it; all its text."""
        self.call("Page.navigate", url=url)
        until, text = time.monotonic() + seconds, ""
        while time.monotonic() < until:
            text = self.evaluate("document.body ? document.body.innerText : ''") or ""
            if all(one in text for one in texts):
                break
            time.sleep(0.5)
        time.sleep(settle)  # what fades in, or is rendered late
        PICTURES.mkdir(parents=True, exist_ok=True)
        shot = self.call("Page.captureScreenshot", format="png")
        (PICTURES / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))
        missing = [one for one in texts if one not in text]
        assert not missing, f"{url} does not show {missing} but:\n{text}"
        return text


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """Start one with nothing remembered in ``folder``. Skips the test, saying so, where it is not installed."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [program, *OPTIONS.split(), f"--user-data-dir={folder}", "about:blank"], stdout=log, stderr=log
        )
    try:
        until, port = time.monotonic() + 60, folder / "DevToolsActivePort"
        while not port.exists() or "\n" not in port.read_text():
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            assert time.monotonic() < until, "Chromium did not start"
            time.sleep(0.1)
        address = f"http://127.0.0.1:{port.read_text().splitlines()[0]}/json"
        pages = [one for one in json.load(urlopen(address)) if one["type"] == "page"]
        with connect(pages[0]["webSocketDebuggerUrl"], max_size=2**26) as socket:
            browser = Browser(socket)
            browser.call("Page.enable")
            yield browser
    finally:
        process.terminate()
        process.wait(20)
