"""A data set behind a plain web server is read by ranges: an image costs its own bytes and the index of its shard."""

import re
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from image_longitudinal.storage.dataset.reader import open_dataset
from image_longitudinal.storage.dataset.transfer import Selection, copy_dataset
from image_longitudinal.storage.io.open import open_root
from tests.storage.conftest import arrays, write_dataset

pytest.importorskip("aiohttp")
DATA = arrays()
ASKED: list[tuple[str, str | None]] = []  # path and range of each request


class Ranges(SimpleHTTPRequestHandler):
    """Files with ranges, as web servers give them; that of the standard library knows none."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, wanted = Path(self.translate_path(self.path)), self.headers.get("Range")
        ASKED.append((self.path, wanted))
        if not path.is_file():
            return self.send_error(404)
        data = path.read_bytes()
        size, start, stop = len(data), 0, len(data)
        if wanted and (found := re.fullmatch(r"bytes=(\d*)-(\d*)", wanted)):
            first, last = found.groups()
            start = int(first) if first else size - int(last)
            stop = min(int(last) + 1, size) if first and last else size
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        self.wfile.write(data[start:stop])
        return None

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    write_dataset(open_root(tmp_path / "data"))
    with ThreadingHTTPServer(("127.0.0.1", 0), lambda *given: Ranges(*given, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/data"
        server.shutdown()


def test_an_image_costs_its_own_bytes(url: str) -> None:
    dataset = open_dataset(url)
    ASKED.clear()
    np.testing.assert_array_equal(dataset.images[5], DATA.images[5])
    assert len(ASKED) == 2
    assert all(path.endswith("images.zarr/image/c/0/0/0") and wanted for path, wanted in ASKED)


def test_tables_subjects_and_parts_are_those_of_the_data_set(url: str, tmp_path: Path) -> None:
    dataset = open_dataset(url)
    assert dataset.observations(1.0, "test").num_rows == 7 * 5
    np.testing.assert_array_equal(dataset[17].linked_eta, DATA.eta[17])
    np.testing.assert_array_equal(dataset.to_xarray().latent[3], DATA.latents[3])
    root = open_root(tmp_path / "copy")
    copy_dataset(open_root(url), root, Selection(splits=("test",)))
    np.testing.assert_array_equal(open_dataset(root).view().images, DATA.images[15:])
