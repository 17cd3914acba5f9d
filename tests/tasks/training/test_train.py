"""What a training refuses before it begins."""

from pathlib import Path

import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.presets import validate_config
from image_longitudinal.models.pretrained import BUNDLED
from image_longitudinal.models.registry.registry import open_version
from image_longitudinal.tasks.training.train import trained_model
from image_longitudinal.tasks.workspace import Workspace

PRIVATE = {"vae": {"dp": {"epsilon": 3}}, "generator": {"backend": "vae"}}


def test_private_training_starts_from_no_earlier_model(tmp_path: Path) -> None:
    """Its scans are unlikely to be others, and no noise bounds what it knows of them."""
    config, start = validate_config(PRIVATE), open_version(BUNDLED["pretrained"])
    with pytest.raises(ConfigError, match=r"private training starts from random weights .*start=afresh"):
        trained_model(config, None, Workspace.at(str(tmp_path)), start=start)  # type: ignore[arg-type]


@pytest.mark.parametrize("section", ["probe", "generator"])
def test_a_solver_that_does_not_fit_is_refused(tmp_path: Path, section: str) -> None:
    """After a training of hours it would be too late."""
    config = validate_config({section: {"scheduler": "centred"}})
    with pytest.raises(ConfigError, match=rf"{section}\.scheduler centred does not fit the model; .*got residual"):
        trained_model(config, None, Workspace.at(str(tmp_path)))  # type: ignore[arg-type]
