"""Checkpoints after every step, so that a kill at any step can be resumed exactly there."""

import pytest

from image_longitudinal.models.training import loop


@pytest.fixture(autouse=True)
def _checkpoint_after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1)
