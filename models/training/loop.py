"""One training loop for every network: accelerate, exact resume, averaged weights, no silent NaN.

Nothing random is carried from step to step: batch, augmentation and noise of a step are pure functions of
(seed, step), so a run that was killed and resumed from its checkpoint ends in the same bits as one that was not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from image_longitudinal.core.errors import ModelError
from image_longitudinal.core.random import stream_key
from image_longitudinal.models.imaging.device import out_of_memory
from image_longitudinal.models.training.processes import mean_over_processes
from image_longitudinal.models.training.tensors import load_tensors, save_tensors
from image_longitudinal.models.training.training_log import TrainingLog, log_of

if TYPE_CHECKING:
    from accelerate import Accelerator

History = list[dict[str, float]]


@dataclass(frozen=True)
class TrainingProgress:
    """What a watcher is told: ``step`` of ``steps`` done (this run began at ``first``), and the latest figures.

    ``noted`` holds all figures since the watcher was last told, at first those of the checkpoint: a training too fast
    to be watched, or one resumed, is drawn whole.
    """

    name: str
    first: int
    step: int
    steps: int
    figures: dict[str, float]
    noted: History


@dataclass(frozen=True)
class LoopSettings:
    """How long and how fast to train; the defaults that differ between networks come from the configuration."""

    steps: int
    learning_rate: float
    seed: int
    ema_decay: float | None = None
    ema_warmup: bool = False  # average over the last ninth of the steps so far while that is shorter
    max_grad_norm: float = 1.0
    mixed_precision: str = "no"
    gradient_accumulation: int = 1
    weight_decay: float = 0.0
    cosine_decay: bool = False
    device: str = "auto"  # accelerate's choice; "cpu" keeps off an accelerator
    log_every: int = 10
    checkpoint_seconds: float = 20.0  # what a kill can cost; a checkpoint of the demo's networks takes 50 ms
    validate_every: int = 0  # steps between validations; 0 for none
    patience: int = 0  # validations without a new best after which training stops; 0 for never


def step_generator(seed: int, stage: str, step: int) -> torch.Generator:
    """Generator (CPU, so that every device sees the same draws) that belongs to one step of one stage."""
    return torch.Generator().manual_seed(stream_key(seed, stage, step) >> 1)


def batch_indices(n: int, batch: int, seed: int, stage: str, step: int) -> NDArray[np.int64]:
    """Which of ``n`` examples step ``step`` sees: shuffled epochs, joined end to end, cut into batches.

    Returns:
        int64, shape (batch,). Every example appears once per epoch of n.
    """
    start = step * batch
    epochs = range(start // n, (start + batch - 1) // n + 1)
    orders = [torch.randperm(n, generator=step_generator(seed, f"{stage}-epoch", epoch)).numpy() for epoch in epochs]
    first = start - epochs[0] * n
    return np.concatenate(orders)[first : first + batch]


def train(
    name: str,
    model: nn.Module,
    loss: Callable[[nn.Module, int, torch.device], dict[str, Tensor]],
    settings: LoopSettings,
    checkpoint: Path,
    report: Callable[[TrainingProgress], None] | None = None,
    validate: Callable[[nn.Module], float] | None = None,
) -> tuple[nn.Module, History]:
    """Train ``model`` and return the network to use afterwards (its averaged weights if asked for) and the history.

    With ``validate`` and ``settings.validate_every``, the weights that validated best are kept beside the checkpoint
    (:func:`best_of`) and returned in the place of the last ones. The history also goes to TensorBoard's event files
    (:func:`models.training.training_log.log_of`).

    Args:
        name: what is trained, for messages.
        model: the network; moved to the device that accelerate finds.
        loss: maps (model, step, device) to scalar tensors, of which ``"loss"`` is minimised; must draw what is random
            from :func:`step_generator`, for the whole batch, and compute its :func:`models.training.processes.share` of it.
        settings: length, rate and precision.
        checkpoint: a safetensors file, replaced atomically while training runs; if it exists, training goes on from it.
        report: told of progress about once a second.
        validate: error of the network as it would be used, in evaluation mode; lower is better.

    Raises:
        ModelError: loss or gradient is not finite (the last good checkpoint stays), the checkpoint is damaged or
            foreign, the device ran out of memory, or has no fp16.
    """
    from accelerate import Accelerator  # here: it takes a second to import, and most processes train nothing
    from accelerate.state import AcceleratorState

    if settings.device.startswith("cuda:"):
        torch.cuda.set_device(settings.device)  # accelerate takes the current one
    AcceleratorState._reset_state()  # accelerate keeps the precision of a process's first training for all others
    accelerator = Accelerator(
        cpu=settings.device == "cpu",
        mixed_precision=settings.mixed_precision,
        gradient_accumulation_steps=settings.gradient_accumulation,
    )
    if settings.mixed_precision == "fp16" and accelerator.scaler is None:  # accelerate would say nothing
        raise ModelError(
            f"training {name} in fp16 needs an accelerator",
            got=accelerator.device.type,
            do=f"set {name}.mixed_precision to no, or to bf16",
        )
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    averaged = None
    if settings.ema_decay is not None:
        average = _moving_average(settings.ema_decay, settings.ema_warmup)
        averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        averaged.to(accelerator.device)
    model, optimizer = accelerator.prepare(model, optimizer)
    plain = accelerator.unwrap_model(model)
    start, history = _restore(checkpoint, name, plain, averaged, optimizer, accelerator.scaler)
    watch = _Watch(best_of(checkpoint), settings, history)

    def note(row: dict[str, float]) -> None:
        history.append(row)
        if log is not None:
            log.add(row)

    model.train()
    saved = told = time.monotonic()
    known = 0  # figures that the watcher has been told
    with ExitStack() as stack:
        log = stack.enter_context(TrainingLog(log_of(checkpoint), history)) if accelerator.is_main_process else None
        for step in range(start, settings.steps):
            if watch.patience_is_over:
                break
            try:
                figures = _take_step(accelerator, name, model, optimizer, loss, step, settings, checkpoint)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                raise ModelError(
                    f"training {name} ran out of device memory",
                    where=f"step {step}",
                    do=f"lower {name}.batch_size, or raise {name}.gradient_accumulation to keep the effective batch",
                ) from error
            if averaged is not None and accelerator.sync_gradients:
                averaged.update_parameters(plain)
            last = step + 1 == settings.steps
            if validate and watch.is_due(step, last):
                used = averaged.module if averaged is not None else plain
                value = torch.tensor(validate(used.eval()), dtype=torch.float64, device=accelerator.device)
                note(watch.look(step, mean_over_processes(value), used, accelerator.is_main_process))
                used.train()
                last = last or watch.patience_is_over
            if step % settings.log_every == 0 or last:
                note({"step": step} | {key: mean_over_processes(value) for key, value in figures.items()})
            now = time.monotonic()
            # Not in the middle of an accumulation: what has gathered in the gradients is not part of a checkpoint.
            due = last or (accelerator.sync_gradients and now - saved > settings.checkpoint_seconds)
            if due and accelerator.is_main_process:
                _save(checkpoint, step + 1, plain, averaged, optimizer, history, accelerator.scaler)
                saved = time.monotonic()
            if report and (last or now - told > 1.0):
                report(TrainingProgress(name, start, step + 1, settings.steps, history[-1], history[known:]))
                told, known = now, len(history)
    accelerator.wait_for_everyone()
    trained = averaged.module if averaged is not None else plain
    if watch.best is not None:
        trained.load_state_dict(load_tensors(best_of(checkpoint))[0])
    return trained.eval(), history


def _moving_average(decay: float, warmup: bool) -> Callable[[Any, Any, Any], None]:
    """Update rule of averaged weights for :class:`AveragedModel`; the warm-up is that of diffusers' ``EMAModel``."""
    if not warmup:
        return get_ema_multi_avg_fn(decay)

    def update(averaged: Any, current: Any, updates: Any) -> None:
        n = int(updates)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averaged, current, updates)

    return update


def _take_step(
    accelerator: Accelerator,
    name: str,
    model: nn.Module,
    optimizer: Any,
    loss: Callable[[nn.Module, int, torch.device], dict[str, Tensor]],
    step: int,
    settings: LoopSettings,
    checkpoint: Path,
) -> dict[str, Tensor]:
    """Gradients of one step and, at the end of an accumulation, a change of the weights; returns the step's figures."""
    with accelerator.accumulate(model):
        figures = loss(model, step, accelerator.device)
        _check_finite(name, step, "loss", figures["loss"], checkpoint)
        accelerator.backward(figures["loss"])
        if accelerator.sync_gradients:
            norm = accelerator.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            # Under fp16 the scaler skips such a step and goes on with a smaller factor, as long as that can help.
            if accelerator.scaler is None or accelerator.scaler.get_scale() < 1:
                _check_finite(name, step, "gradient", norm, checkpoint)
        _set_learning_rate(optimizer, settings, step)
        optimizer.step()
        optimizer.zero_grad()
    return figures


def best_of(checkpoint: Path) -> Path:
    """Where the weights that validated best lie: beside the checkpoint, which holds the last ones."""
    return checkpoint.with_name(f"{checkpoint.name}.best")


class _Watch:
    """Keeps the best weights, and knows when waiting for better ones is over; its memory is the history."""

    def __init__(self, path: Path, settings: LoopSettings, history: History) -> None:
        self.path, self.settings, self.history = path, settings, history

    @property
    def best(self) -> float | None:
        return min((row["validation"] for row in self.history if "validation" in row), default=None)

    @property
    def patience_is_over(self) -> bool:
        seen = [row["validation"] for row in self.history if "validation" in row]
        return bool(self.settings.patience and seen and len(seen) - 1 - int(np.argmin(seen)) >= self.settings.patience)

    def is_due(self, step: int, last: bool) -> bool:
        every = self.settings.validate_every
        return bool(every) and ((step + 1) % every == 0 or last)

    def look(self, step: int, value: float, network: nn.Module, main: bool) -> dict[str, float]:
        if main and (self.best is None or value < self.best):
            save_tensors(self.path, network.state_dict(), {"step": str(step + 1), "validation": repr(value)})
        return {"step": step, "validation": value}


def begin_with(name: str, model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Let training begin with the weights of an earlier model in place of random ones.

    Raises:
        ModelError: they are of another architecture.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(
            f"the {name} network cannot begin with these weights: its architecture is another one",
            got=str(error).splitlines()[-1],
            do="begin afresh (start=afresh), or configure the architecture of the production model",
        ) from error


def _set_learning_rate(optimizer: Any, settings: LoopSettings, step: int) -> None:
    if settings.cosine_decay:
        fraction = 0.5 * (1 + np.cos(np.pi * step / settings.steps))
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * max(fraction, 0.02)


def _check_finite(name: str, step: int, what: str, value: Tensor, checkpoint: Path) -> None:
    if not bool(torch.isfinite(value.detach())):
        kept = f"the last good state is kept in {checkpoint.name}" if checkpoint.exists() else "no state was saved yet"
        raise ModelError(
            f"training {name} diverged: {kept}",
            where=f"step {step}",
            expected=f"a finite {what}",
            got=float(value.detach()),
            do=f"lower {name}.learning_rate",
        )


def _state(model: nn.Module, averaged: AveragedModel | None, optimizer: Any) -> Iterator[tuple[str, Tensor]]:
    for key, value in model.state_dict().items():
        yield f"model/{key}", value
    if averaged is not None:
        for key, value in averaged.state_dict().items():
            yield f"averaged/{key}", value
    for index, slots in optimizer.state_dict()["state"].items():
        for key, value in slots.items():
            yield f"optimizer/{index}/{key}", value


def _save(
    path: Path,
    step: int,
    model: nn.Module,
    averaged: AveragedModel | None,
    optimizer: Any,
    history: History,
    scaler: Any,
) -> None:
    told = {"step": str(step), "history": json.dumps(history)}
    if scaler is not None:  # fp16: the factor that keeps small gradients from vanishing, and its count
        told["scaler"] = json.dumps(scaler.state_dict())
    save_tensors(path, dict(_state(model, averaged, optimizer)), told)


def _restore(
    path: Path, name: str, model: nn.Module, averaged: AveragedModel | None, optimizer: Any, scaler: Any
) -> tuple[int, History]:
    if not path.exists():
        return 0, []
    tensors, metadata = load_tensors(path)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "averaged": {}, "optimizer": {}}
    slots: dict[int, dict[str, Tensor]] = {}
    try:
        for key, value in tensors.items():
            part, rest = key.split("/", 1)
            parts[part][rest] = value
        for key, value in parts["optimizer"].items():
            index, slot = key.split("/")
            slots.setdefault(int(index), {})[slot] = value
        model.load_state_dict(parts["model"])
        if averaged is not None:
            averaged.load_state_dict(parts["averaged"])
        optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
        if scaler is not None and "scaler" in metadata:
            scaler.load_state_dict(json.loads(metadata["scaler"]))
        return int(metadata["step"]), json.loads(metadata["history"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"the checkpoint does not fit the {name} network", where=path, do="delete it to train afresh"
        ) from error
