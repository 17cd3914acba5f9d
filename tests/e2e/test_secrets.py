"""A password and a token in the address of scans: in no file of the workspace, database, log or terminal."""

import base64
import io
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL

from image_longitudinal.storage.scans.prepared import open_prepared

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("prefect_server")]

PASSWORD, TOKEN = "hunter-2-hunter", "tok-0123456789abcdef"


@pytest.fixture
def address() -> Iterator[str]:
    """A web server that gives scans.zip to whoever has password and token."""
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        for patient in range(24):
            grey = np.random.default_rng(patient).integers(0, 255, (80, 80)).astype(np.uint8)
            Image.fromarray(grey).save(picture := io.BytesIO(), "PNG")
            archive.writestr(f"CNV/CNV-{patient}-1.png", picture.getvalue())
    wanted = "Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            allowed = self.headers.get("Authorization") == wanted and query == f"token={TOKEN}"
            status = 403 if not allowed else 200 if path == "/scans.zip" else 404
            content = buffer.getvalue() if status == 200 else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://me:{PASSWORD}@127.0.0.1:{server.server_port}/scans.zip?token={TOKEN}"
        server.shutdown()
        thread.join()


def test_neither_success_nor_failure_writes_it_anywhere(
    address: str, tmp_path: Path, prefect_home: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    printed = ""
    for source, status in ((address, 0), (address.replace("scans.zip", "gone.zip"), 1)):
        taken = ("--set", "images.odd_scans=take")  # noise shows no retina
        few = ("--set", "images.min_images=20", "--set", "images.denoise=none", *taken, "--workspace", "workspace")
        done = command("ingest", source, *few)
        printed += done.stdout + done.stderr
        assert done.returncode == status, done.stderr[-2000:]
    assert "http://***@127.0.0.1" in printed
    (folder,) = (tmp_path / "workspace" / "images").iterdir()
    assert open_prepared(folder).manifest.source.folder == "scans.zip", "which model.json repeats"
    database = Path(str(PREFECT_API_DATABASE_CONNECTION_URL.value()).partition(":///")[2])
    files = [path for place in (tmp_path, prefect_home) for path in place.rglob("*") if path.is_file()]
    files += sorted(database.parent.glob(f"{database.name}*"))  # with its write-ahead log
    assert any(b"ingest scans of scans.zip" in path.read_bytes() for path in files), "the name of the run"
    for secret in (PASSWORD, TOKEN):
        assert secret not in printed
        assert [str(path) for path in files if secret.encode() in path.read_bytes()] == []
