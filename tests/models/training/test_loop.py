"""The training loop: a killed and resumed run ends in the bits of one that was not, and divergence is an error."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.registry.metadata import History
from image_longitudinal.models.training import loop as module
from image_longitudinal.models.training.checkpoints import best_weights_path
from image_longitudinal.models.training.event_log import log_folder
from image_longitudinal.models.training.loop import LoopSettings, TrainingProgress, train
from image_longitudinal.models.training.step_random import step_generator
from image_longitudinal.models.training.tensor_files import load_checked, load_tensors, save_checked
from tests.models.conftest import assert_same_weights

STEPS = 24
SETTINGS = LoopSettings(STEPS, 1e-2, device="cpu", log_every=5)
Loss = Callable[[nn.Module, int, torch.device], dict[str, Tensor]]


class Killed(Exception):
    """Stands for whatever ends a process."""


def network(width: int = 5) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Linear(width, 1))


def loss(model: nn.Module, step: int, device: torch.device) -> dict[str, Tensor]:
    x = torch.randn(8, 3, generator=step_generator(1, "data", step))
    value = mse_loss(model(x), x.sum(1, keepdim=True))
    return {"loss": value, "twice": 2 * value}


def stopping(at: int, how: Loss | None = None) -> Loss:
    def stops(model: nn.Module, step: int, device: torch.device) -> dict[str, Tensor]:
        if step == at:
            if how is None:
                raise Killed
            return how(model, step, device)
        return loss(model, step, device)

    return stops


def state(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.fixture(autouse=True)
def _checkpoint_after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a kill at any step can be resumed exactly there."""
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", -1)


VARIANTS = {
    "plain": SETTINGS,
    "averaged": replace(SETTINGS, ema_decay=0.9),
    "cosine": replace(SETTINGS, cosine_decay=True, weight_decay=0.01),
    "accumulated": replace(SETTINGS, gradient_accumulation=3, ema_decay=0.9),
    "bf16": replace(SETTINGS, mixed_precision="bf16"),
    "validated": replace(SETTINGS, validate_every=3, ema_decay=0.9),
}


def test_tensorboard_shows_a_killed_and_resumed_training_as_one(tmp_path: Path) -> None:
    settings = replace(SETTINGS, validate_every=6)
    with pytest.raises(Killed):
        train("tiny", network(), stopping(13), settings, tmp_path / "checkpoint", validate=lambda _: 0.5)
    _, history = train("tiny", network(), loss, settings, tmp_path / "checkpoint", validate=lambda _: 0.5)
    events = EventAccumulator(str(log_folder(tmp_path / "checkpoint"))).Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "twice", "validation"}
    for name in events.Tags()["scalars"]:
        logged = [(event.step, event.value) for event in events.Scalars(name)]
        assert logged == [(row["step"], np.float32(row[name])) for row in history if name in row]


@pytest.mark.parametrize("stops", [(1,), (2, 9), (13,), (STEPS - 1,)], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_killed_and_resumed_training_ends_in_the_same_bits(
    tmp_path: Path, variant: str, stops: tuple[int, ...]
) -> None:
    def distance(model: nn.Module) -> float:
        return abs(float(next(model.parameters()).detach().sum()))

    def run(how: Loss, name: str) -> tuple[nn.Module, History]:
        validate = distance if variant == "validated" else None
        return train("tiny", network(), how, VARIANTS[variant], tmp_path / name, validate=validate)

    whole, history = run(loss, "whole")
    for stop in stops:
        with pytest.raises(Killed):
            run(stopping(stop), "killed")
    resumed, resumed_history = run(loss, "killed")
    assert_same_weights(resumed, whole)
    assert resumed_history == history
    assert not whole.training


def test_a_resumed_training_does_not_repeat_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def counting(model: nn.Module, step: int, device: torch.device) -> dict[str, Tensor]:
        seen.append(step)
        return loss(model, step, device)

    with pytest.raises(Killed):
        train("tiny", network(), stopping(10), SETTINGS, tmp_path / "checkpoint")
    train("tiny", network(), counting, SETTINGS, tmp_path / "checkpoint")
    assert seen == list(range(10, STEPS))
    train("tiny", network(), counting, SETTINGS, tmp_path / "checkpoint")
    assert len(seen) == STEPS - 10, "a finished training is only loaded"
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", 3600)
    with pytest.raises(Killed):
        train("tiny", network(), stopping(10), SETTINGS, tmp_path / "new")
    assert not (tmp_path / "new").exists(), "without time for a checkpoint the training starts again"


def test_training_learns_and_the_history_has_every_figure_at_the_logged_steps(tmp_path: Path) -> None:
    _, history = train("tiny", network(), loss, replace(SETTINGS, steps=200, log_every=50), tmp_path / "checkpoint")
    assert [entry["step"] for entry in history] == [0, 50, 100, 150, 199]
    assert all(entry["twice"] == 2 * entry["loss"] for entry in history)
    assert history[-1]["loss"] < 0.3 * history[0]["loss"]


@pytest.mark.parametrize(("warmup", "accumulated"), [(False, 1), (True, 1), (False, 3)])
def test_averaged_weights_are_the_exponential_average(tmp_path: Path, warmup: bool, accumulated: int) -> None:
    """Against the recursion written out, over whole steps; float32 rounding over 24 steps."""
    seen: list[dict[str, Tensor]] = []

    def spying(model: nn.Module, step: int, device: torch.device) -> dict[str, Tensor]:
        seen.append(state(model))
        return loss(model, step, device)

    plain = replace(SETTINGS, gradient_accumulation=accumulated)
    settings = replace(plain, ema_decay=0.6, ema_warmup=warmup)  # (1 + n) / (10 + n) passes 0.6 at n = 12.5
    averaged, _ = train("tiny", network(), spying, settings, tmp_path / "averaged")
    last, _ = train("tiny", network(), loss, plain, tmp_path / "plain")
    after = [*seen[accumulated::accumulated], state(last)]
    for key in ("0.weight", "1.running_mean", "3.bias"):
        expected = after[0][key]
        for n, later in enumerate(after[1:], start=1):
            decay = min(0.6, (1 + n) / (10 + n)) if warmup else 0.6
            expected = decay * expected + (1 - decay) * later[key]
        torch.testing.assert_close(averaged.state_dict()[key], expected, rtol=1e-4, atol=1e-6)


def test_accumulated_gradients_are_those_of_one_large_batch(tmp_path: Path) -> None:
    """No batch norm here, whose statistics differ; float32 sums in another order."""

    def pieces(model: nn.Module, step: int, device: torch.device) -> dict[str, Tensor]:
        x = torch.randn(4, 3, generator=step_generator(1, "data", step))
        return {"loss": mse_loss(model(x), x.sum(1, keepdim=True))}

    def joined(model: nn.Module, step: int, device: torch.device) -> dict[str, Tensor]:
        return {"loss": (pieces(model, 2 * step, device)["loss"] + pieces(model, 2 * step + 1, device)["loss"]) / 2}

    def linear() -> nn.Module:
        torch.manual_seed(0)
        return nn.Linear(3, 1)

    halves = replace(SETTINGS, gradient_accumulation=2)
    one, _ = train("tiny", linear(), pieces, halves, tmp_path / "halves")
    two, _ = train("tiny", linear(), joined, replace(SETTINGS, steps=STEPS // 2), tmp_path / "joined")
    torch.testing.assert_close(one.state_dict(), two.state_dict(), rtol=1e-5, atol=1e-6)


@pytest.fixture
def fp16_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerate with the scaler that it has on a GPU; its factor doubles after every third good step."""

    class Scaling(accelerate.Accelerator):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)

    monkeypatch.setattr(accelerate, "Accelerator", Scaling)


FP16 = replace(SETTINGS, mixed_precision="fp16", ema_decay=0.9)


@pytest.mark.usefixtures("fp16_on_a_cpu")
def test_the_scaler_of_fp16_goes_on_where_it_was(tmp_path: Path) -> None:
    """Its factor and the count of good steps come back; without them the resumed run would scale otherwise."""
    whole, history = train("tiny", network(), loss, FP16, tmp_path / "whole")
    with pytest.raises(Killed):
        train("tiny", network(), stopping(11), FP16, tmp_path / "killed")
    scaler = json.loads(load_tensors(tmp_path / "killed")[1]["scaler"])
    assert (scaler["scale"], scaler["_growth_tracker"]) == (1024 * 2**3, 2)
    resumed, resumed_history = train("tiny", network(), loss, FP16, tmp_path / "killed")
    assert load_tensors(tmp_path / "killed")[1] == load_tensors(tmp_path / "whole")[1]
    assert_same_weights(resumed, whole)
    assert resumed_history == history


@pytest.mark.usefixtures("fp16_on_a_cpu")
def test_fp16_skips_a_step_that_overflows_but_refuses_a_gradient_that_stays_undefined(tmp_path: Path) -> None:
    def once(model: nn.Module, step: int, device: torch.device) -> dict[str, Tensor]:
        return bad_gradient(model, step, device) if step == 7 else loss(model, step, device)

    trained, _ = train("tiny", network(), once, FP16, tmp_path / "once")
    assert all(value.isfinite().all() for value in trained.state_dict().values())
    with pytest.raises(ModelError, match=r"training tiny diverged: .*expected a finite gradient"):
        train("tiny", network(), bad_gradient, FP16, tmp_path / "always")


def test_fp16_without_an_accelerator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"fp16 needs an accelerator; got cpu\. Set tiny\.mixed_precision to no"):
        train("tiny", network(), loss, replace(SETTINGS, mixed_precision="fp16"), tmp_path / "checkpoint")


def not_a_number(model: nn.Module, step: int, device: torch.device) -> dict[str, Tensor]:
    return {"loss": loss(model, step, device)["loss"] * float("nan")}


def bad_gradient(model: nn.Module, step: int, device: torch.device) -> dict[str, Tensor]:
    """A finite loss whose gradient is not: √ at 0."""
    return {"loss": (model[3].weight * 0).sqrt().sum()}


@pytest.mark.parametrize(("how", "named"), [(not_a_number, "a finite loss"), (bad_gradient, "a finite gradient")])
def test_a_training_that_diverges_stops_and_keeps_the_last_good_state(tmp_path: Path, how: Loss, named: str) -> None:
    checkpoint = tmp_path / "tiny.checkpoint"
    with pytest.raises(ModelError, match=rf"training tiny diverged: .*tiny\.checkpoint \(step 7\); expected {named}"):
        train("tiny", network(), stopping(7, how), SETTINGS, checkpoint)
    tensors, metadata = load_tensors(checkpoint)
    assert metadata["step"] == "7"
    assert all(value.isfinite().all() for value in tensors.values())
    resumed, _ = train("tiny", network(), loss, SETTINGS, checkpoint)
    whole, _ = train("tiny", network(), loss, SETTINGS, tmp_path / "whole")
    assert_same_weights(resumed, whole)


def test_a_training_that_diverges_at_once_says_that_nothing_was_saved(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no state was saved yet \(step 0\).*got nan.*[Ll]ower tiny\.learning_rate"):
        train("tiny", network(), not_a_number, SETTINGS, tmp_path / "checkpoint")
    assert list(tmp_path.iterdir()) == [log_folder(tmp_path / "checkpoint")]


def device_without_memory() -> Tensor:
    raise torch.OutOfMemoryError("tried to allocate")


@pytest.mark.parametrize(
    "allocate",
    [device_without_memory, lambda: torch.empty(10**15), lambda: torch.from_numpy(np.empty(10**15))],  # petabytes
    ids=["device", "tensor", "array"],
)
def test_running_out_of_memory_names_what_to_lower(tmp_path: Path, allocate: Callable[[], Tensor]) -> None:
    message = r"out of device memory \(step 3\)\. Lower tiny\.batch_size, or raise tiny\.gradient_accumulation"
    how = stopping(3, lambda model, step, device: {"loss": allocate().mean()})
    with pytest.raises(ModelError, match=message):
        train("tiny", network(), how, SETTINGS, tmp_path / "checkpoint")
    assert load_tensors(tmp_path / "checkpoint")[1]["step"] == "3"


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    train("tiny", network(), loss, SETTINGS, tmp_path / "checkpoint")
    with pytest.raises(ModelError, match=r"does not fit the tiny network .*checkpoint.*[Dd]elete it"):
        train("tiny", network(width=6), loss, SETTINGS, tmp_path / "checkpoint")
    with pytest.raises(ModelError, match="does not fit"):
        train("tiny", network(), loss, replace(SETTINGS, ema_decay=0.9), tmp_path / "checkpoint")


def test_other_tensors_are_no_checkpoint(tmp_path: Path) -> None:
    for key in ("weight", "model/weight", "somewhere/weight", "optimizer/x/step"):
        save_checked(tmp_path / "checkpoint", {key: torch.zeros(2)})
        with pytest.raises(ModelError, match="does not fit the tiny network"):
            train("tiny", network(), loss, SETTINGS, tmp_path / "checkpoint")


def test_trainings_of_other_precision_can_follow_each_other(tmp_path: Path) -> None:
    """Accelerate keeps one precision per process; the paper's preset trains the VAE in "no", the UNet in "fp16"."""
    found: list[nn.Module] = []
    for precision in ("no", "bf16", "no"):
        settings = replace(SETTINGS, mixed_precision=precision)
        trained, _ = train("tiny", network(), loss, settings, tmp_path / f"{len(found)}")
        found.append(trained)
    assert_same_weights(found[0], found[2])
    assert not torch.equal(state(found[0])["0.weight"], state(found[1])["0.weight"])


def test_reports_hold_all_figures_also_of_fast_steps_and_of_those_before_a_restart(tmp_path: Path) -> None:
    reports: list[TrainingProgress] = []
    train("tiny", network(), loss, replace(SETTINGS, steps=STEPS // 2), tmp_path / "checkpoint")
    _, history = train("tiny", network(), loss, SETTINGS, tmp_path / "checkpoint", reports.append)
    assert [row for progress in reports for row in progress.new_figures] == history
    assert history[0]["step"] == 0
    assert (reports[-1].first_step, reports[-1].step, reports[-1].steps) == (STEPS // 2, STEPS, STEPS)
    assert reports[-1].figures["step"] == STEPS - 1


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
    assert_same_weights(best, short)  # after 8 of the 24 steps
    assert [row["validation"] for row in history if "validation" in row] == [2, 1, 2, 3, 4, 5]
    whole, _ = train("tiny", network(), loss, SETTINGS, tmp_path / "whole")
    last = load_tensors(tmp_path / "a")[0]
    assert all(torch.equal(last[f"model/{key}"], value) for key, value in whole.state_dict().items())
    assert load_checked(best_weights_path(tmp_path / "a"))[1] == {"step": "8", "validation": "1.0"}


@pytest.mark.parametrize("file", ["a", "a.best"])
def test_a_damaged_checkpoint_starts_the_training_anew_and_ends_in_the_same_bits(
    tmp_path: Path, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings, checkpoint = replace(SETTINGS, validate_every=4), tmp_path / "a"
    whole, history = train("tiny", network(), loss, settings, tmp_path / "whole", validate=error_at(1))
    for position in (3, 0.2, 0.5, 0.999, None):  # of the flipped bit: header, tensors; None: the file is gone
        with pytest.raises(Killed):
            train("tiny", network(), stopping(17), settings, checkpoint, validate=error_at(1))
        damaged = tmp_path / file
        content = bytearray(damaged.read_bytes())
        damaged.unlink()
        if position is not None:
            content[position if position > 1 else int(position * len(content))] ^= 4
            damaged.write_bytes(content)
        caplog.clear()
        trained, again = train("tiny", network(), loss, settings, checkpoint, validate=error_at(1))
        assert (file == "a" and position is None) or "training tiny starts from the beginning" in caplog.text
        assert_same_weights(trained, whole)
        assert again == history
        for path in (checkpoint, best_weights_path(checkpoint)):
            path.unlink()


def test_training_stops_when_nothing_better_comes_and_stays_stopped(tmp_path: Path) -> None:
    settings = replace(SETTINGS, validate_every=4, patience=2)
    stopped, history = train("tiny", network(), loss, settings, tmp_path / "a", validate=error_at(1))
    assert max(row["step"] for row in history) == 15  # the fourth validation is the second without a new best
    again, same = train("tiny", network(), loss, settings, tmp_path / "a", validate=error_at(1))
    assert same == history
    assert_same_weights(again, stopped)
