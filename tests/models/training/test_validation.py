"""Validation in the training loop: the best weights are returned, and training stops early."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from image_longitudinal.models.training.loop import train
from image_longitudinal.models.training.tensor_files import load_tensors
from image_longitudinal.models.training.validation import best_weights_path
from tests.models.training.test_loop import SETTINGS, Killed, assert_same, loss, network, state, stopping


def error_at(best: int) -> Callable[[nn.Module], float]:
    """An error that is least at the ``best``-th validation, counted from 0."""
    calls: list[int] = []

    def error(model: nn.Module) -> float:
        assert not model.training
        calls.append(1)
        return abs(len(calls) - 1 - best) + 1.0

    return error


def test_the_best_weights_are_returned_and_the_last_ones_kept_too(tmp_path: Path) -> None:
    settings = replace(SETTINGS, validate_every=4)
    short, _ = train("tiny", network(), loss, replace(SETTINGS, steps=8), tmp_path / "short")
    best, history = train("tiny", network(), loss, settings, tmp_path / "a", validate=error_at(1))
    assert_same(state(best), state(short))  # after 8 of the 24 steps
    assert [row["validation"] for row in history if "validation" in row] == [2, 1, 2, 3, 4, 5]
    whole, _ = train("tiny", network(), loss, SETTINGS, tmp_path / "whole")
    last = {
        key.removeprefix("model/"): value for key, value in load_tensors(tmp_path / "a")[0].items() if "model/" in key
    }
    assert_same(last, state(whole))
    assert load_tensors(best_weights_path(tmp_path / "a"))[1] == {"step": "8", "validation": "1.0"}


def test_training_stops_when_nothing_better_comes_and_stays_stopped(tmp_path: Path) -> None:
    settings = replace(SETTINGS, validate_every=4, patience=2)
    stopped, history = train("tiny", network(), loss, settings, tmp_path / "a", validate=error_at(1))
    assert max(row["step"] for row in history) == 15  # the fourth validation is the second without a new best
    again, same = train("tiny", network(), loss, settings, tmp_path / "a", validate=error_at(1))
    assert same == history
    assert_same(state(again), state(stopped))


def test_a_killed_training_knows_its_best(tmp_path: Path) -> None:
    def distance(model: nn.Module) -> float:
        return abs(float(next(model.parameters()).detach().sum()))

    settings = replace(SETTINGS, validate_every=3, ema_decay=0.9)
    whole, history = train("tiny", network(), loss, settings, tmp_path / "whole", validate=distance)
    with pytest.raises(Killed):
        train("tiny", network(), stopping(14), settings, tmp_path / "a", validate=distance)
    resumed, same = train("tiny", network(), loss, settings, tmp_path / "a", validate=distance)
    assert same == history
    assert_same(state(resumed), state(whole))
