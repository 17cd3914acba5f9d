"""A workspace that somebody else made cannot send our files elsewhere."""

from pathlib import Path

import pytest

from image_longitudinal.core.errors import StorageError
from image_longitudinal.tasks.workspace import Workspace


def test_no_folder_of_a_workspace_leads_out_of_it(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    root = tmp_path / "workspace"
    root.mkdir()
    for name in ("images", "frames", "sources", "training", "evaluation", "models"):
        (root / name).symlink_to(tmp_path / "outside")
    space = Workspace.at(root)
    for folder in (
        lambda: space.images("a" * 64), lambda: space.frames("a" * 64), lambda: space.sources,
        lambda: space.training("a" * 64), lambda: space.evaluation("a" * 64), lambda: space.registry,
    ):  # fmt: skip
        with pytest.raises(StorageError, match="a link leads out of the folder"):
            folder()
