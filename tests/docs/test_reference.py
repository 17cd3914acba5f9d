"""What the reference says by hand is what the code has."""

import re

from image_longitudinal.cli.app import STATUSES
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset.manifest import RootManifest, ShardManifest
from tests.paths import ROOT

REFERENCE = ROOT / "docs" / "reference"


def test_every_exit_status_has_a_row() -> None:
    rows = re.findall(r"^\| ([\d, ]+) \|", (REFERENCE / "exit-statuses.md").read_text(), re.M)
    documented = {int(status) for row in rows for status in row.split(",")}
    assert documented == {int(status) for status in re.findall(r"\b\d+\b", STATUSES)}


def test_the_layout_names_every_file_table_and_key() -> None:
    text = (REFERENCE / "layout.md").read_text()
    keys = set(re.findall(r"`([a-z_]+)`", text))
    for document in (RootManifest, ShardManifest):
        assert set(document.model_fields) - keys == set()
    for name in (layout.ROOT_MANIFEST, layout.RUN_FILE, layout.LEASE, layout.CARD, layout.CROISSANT, *layout.TABLES):
        assert name in text
