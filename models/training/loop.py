"""One training loop for every network: accelerate, exact resume, averaged weights, an error as soon as a loss is NaN.

No random state is carried from step to step: batch, augmentation and noise of a step are pure functions of
(seed, step), so a training that was killed and resumed from its checkpoint ends in the same bits as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from image_longitudinal.core.config import DiffusionConfig, DistillationConfig, VAEConfig
from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.imaging.device import out_of_memory
from image_longitudinal.models.registry.metadata import History
from image_longitudinal.models.training.checkpoints import TrainingState, ValidationTracker, best_weights_path
from image_longitudinal.models.training.event_log import EventLog
from image_longitudinal.models.training.processes import mean_over_processes
from image_longitudinal.models.training.tensor_files import load_checked

if TYPE_CHECKING:
    from accelerate import Accelerator

CHECKPOINT_SECONDS = 20.0  # the most that a kill costs; a checkpoint of the demo's networks takes 50 ms
Network = TypeVar("Network", bound=nn.Module)
LossFunction = Callable[[nn.Module, int, torch.device], dict[str, Tensor]]


@dataclass(frozen=True)
class TrainingProgress:
    """State of a running training: ``step`` of ``steps`` are done, this run began at ``first_step``.

    ``figures`` are the latest. ``new_figures`` are all since the last report, in the first report also those of the
    checkpoint, so that the curves of a fast or resumed training are complete.
    """

    name: str
    first_step: int
    step: int
    steps: int
    figures: dict[str, float]
    new_figures: History


@dataclass(frozen=True)
class LoopSettings:
    """How long and how fast to train; the defaults that differ between networks come from the configuration."""

    steps: int
    learning_rate: float
    ema_decay: float | None = None
    ema_warmup: bool = False  # while it is shorter, average over the last ninth of the steps so far
    max_grad_norm: float = 1.0
    mixed_precision: str = "no"
    gradient_accumulation: int = 1
    weight_decay: float = 0.0
    cosine_decay: bool = False
    device: str = "auto"  # accelerate's choice; "cpu" avoids an accelerator
    log_every: int = 10
    validate_every: int = 0  # steps between validations; 0 for none
    patience: int = 0  # validations without a new best after which training stops; 0 for never

    @classmethod
    def of(
        cls, config: VAEConfig | DiffusionConfig | DistillationConfig, device: str, **changes: float | bool
    ) -> LoopSettings:
        """The settings that have the same name in a network's configuration, with ``changes``."""
        shared = {field.name: getattr(config, field.name) for field in fields(cls) if hasattr(config, field.name)}
        return cls(**{**shared, "device": device, **changes})


def train(
    name: str,
    model: Network,
    loss: LossFunction,
    settings: LoopSettings,
    checkpoint: Path,
    report: Callable[[TrainingProgress], None] | None = None,
    validate: Callable[[Network], float] | None = None,
) -> tuple[Network, History]:
    """Train ``model``; returns the network to use afterwards (its averaged weights if configured) and the history.

    With ``validate`` and ``settings.validate_every``, the weights with the least validation error are saved in
    :func:`models.training.checkpoints.best_weights_path` and returned instead of the last ones. The history also goes
    to TensorBoard's event files in :func:`.event_log.log_folder`.

    Args:
        name: what is trained, for messages.
        model: the network; moved to the device that accelerate finds.
        loss: maps (model, step, device) to scalar tensors, of which ``"loss"`` is minimised. It must take all random
            numbers, for the whole batch, from :func:`models.training.step_random.step_generator`, and compute the rows
            of :func:`models.training.processes.process_rows`. A loss without a graph says that the function has set
            the parameters' gradients itself.
        settings: length, learning rate and precision.
        checkpoint: a safetensors file, replaced atomically while training runs; if it exists and is intact, training
            resumes from it.
        report: receives the progress about once a second.
        validate: error of the network as it would be used, in evaluation mode; lower is better.

    Raises:
        ModelError: loss or gradient is not finite (the last good checkpoint stays), the checkpoint is of another
            network, the device ran out of memory, or does not support fp16.
    """
    accelerator = _accelerator(name, settings)
    optimizer: Any = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    averaged = None
    if settings.ema_decay is not None:
        average = _moving_average(settings.ema_decay, settings.ema_warmup)
        averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        averaged.to(accelerator.device)
    model, optimizer = accelerator.prepare(model, optimizer)
    plain = accelerator.unwrap_model(model)
    trained: Any = averaged.module if averaged is not None else plain
    state = TrainingState(plain, averaged, optimizer, accelerator.scaler)
    start, history = state.restore(checkpoint, name)
    best_path = best_weights_path(checkpoint)
    tracker = ValidationTracker(best_path, settings.validate_every, settings.patience, history)

    model.train()
    saved_at = reported_at = time.monotonic()
    n_reported = 0
    with ExitStack() as stack:
        log = stack.enter_context(EventLog(checkpoint, history)) if accelerator.is_main_process else None

        def record(row: dict[str, float]) -> None:
            history.append(row)
            if log is not None:
                log.write(row)

        for step in range(start, settings.steps):
            if tracker.should_stop:
                break
            figures = _take_step(accelerator, name, model, optimizer, loss, step, settings, checkpoint)
            if averaged is not None and accelerator.sync_gradients:
                averaged.update_parameters(plain)
            last = step + 1 == settings.steps
            if validate and tracker.is_due(step, last):
                error = torch.tensor(validate(trained.eval()), dtype=torch.float64, device=accelerator.device)
                record(tracker.record(step, mean_over_processes(error), trained, accelerator.is_main_process))
                trained.train()
                last = last or tracker.should_stop
            if step % settings.log_every == 0 or last:
                record({"step": step} | {key: mean_over_processes(value) for key, value in figures.items()})
            now = time.monotonic()
            # Not in the middle of an accumulation: a checkpoint does not hold the gradients gathered so far.
            due = last or (accelerator.sync_gradients and now - saved_at > CHECKPOINT_SECONDS)
            if due and accelerator.is_main_process:
                state.save(checkpoint, step + 1, history)
                saved_at = time.monotonic()
            if report and (last or now - reported_at > 1.0):
                report(TrainingProgress(name, start, step + 1, settings.steps, history[-1], history[n_reported:]))
                reported_at, n_reported = now, len(history)
    accelerator.wait_for_everyone()
    if tracker.errors:
        trained.load_state_dict(load_checked(best_path)[0])
    return trained.eval(), history


def _accelerator(name: str, settings: LoopSettings) -> Accelerator:
    from accelerate import Accelerator  # here: it takes a second to import, and most processes train nothing
    from accelerate.state import AcceleratorState

    if settings.device.startswith("cuda:"):
        torch.cuda.set_device(settings.device)  # accelerate takes the current one
    AcceleratorState._reset_state()  # accelerate keeps the precision of a process's first training for all others
    accelerator = Accelerator(
        cpu=settings.device == "cpu", mixed_precision=settings.mixed_precision,
        gradient_accumulation_steps=settings.gradient_accumulation,
    )  # fmt: skip
    if settings.mixed_precision == "fp16" and accelerator.scaler is None:  # accelerate would ignore it silently
        raise ModelError(
            f"training {name} in fp16 needs an accelerator", got=accelerator.device.type,
            do=f"set {name}.mixed_precision to no, or to bf16",
        )  # fmt: skip
    return accelerator


def _moving_average(decay: float, warmup: bool) -> Callable[[Any, Any, Any], None]:
    """Update rule of averaged weights for :class:`AveragedModel`; the warm-up is that of diffusers' ``EMAModel``."""

    def update(averaged: Any, current: Any, updates: Any) -> None:
        n = int(updates)
        rate = min(decay, (1 + n) / (10 + n)) if warmup else decay
        get_ema_multi_avg_fn(rate)(averaged, current, updates)

    return update


def _take_step(
    accelerator: Accelerator,
    name: str,
    model: nn.Module,
    optimizer: Any,
    loss: LossFunction,
    step: int,
    settings: LoopSettings,
    checkpoint: Path,
) -> dict[str, Tensor]:
    """Compute the gradients of one step; after an accumulation, update the weights. Returns the step's figures."""
    try:
        with accelerator.accumulate(model):
            figures = loss(model, step, accelerator.device)
            _check_finite(name, step, "loss", figures["loss"], checkpoint)
            if figures["loss"].requires_grad:  # else the function has set the gradients
                accelerator.backward(figures["loss"])
            if accelerator.sync_gradients:
                norm = accelerator.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
                # Under fp16 the scaler skips such a step and lowers its factor, as long as that can help.
                if accelerator.scaler is None or accelerator.scaler.get_scale() < 1:
                    _check_finite(name, step, "gradient", norm, checkpoint)
            if settings.cosine_decay:
                fraction = 0.5 * (1 + np.cos(np.pi * step / settings.steps))
                for group in optimizer.param_groups:
                    group["lr"] = settings.learning_rate * max(fraction, 0.02)
            optimizer.step()
            optimizer.zero_grad()
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise ModelError(
            f"training {name} ran out of device memory", where=f"step {step}",
            do=f"lower {name}.batch_size, or raise {name}.gradient_accumulation to keep the effective batch",
        ) from error  # fmt: skip
    return figures


def _check_finite(name: str, step: int, what: str, value: Tensor, checkpoint: Path) -> None:
    if not bool(torch.isfinite(value.detach())):
        kept = f"the last good state is kept in {checkpoint.name}" if checkpoint.exists() else "no state was saved yet"
        raise ModelError(
            f"training {name} diverged: {kept}", where=f"step {step}", expected=f"a finite {what}",
            got=float(value.detach()), do=f"lower {name}.learning_rate",
        )  # fmt: skip
