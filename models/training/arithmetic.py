"""What decides the last bits of trained weights beside the configuration, and keeping the part that can be kept.

A sum over a batch is divided between threads, and computed with the vector instructions of the processor: another
number of threads, instruction set, device or build of torch rounds differently, and training amplifies it.
"""

import functools
import inspect
import platform
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from image_longitudinal.core.config import ComputeConfig
from image_longitudinal.models.imaging.device import default_device
from image_longitudinal.models.registry.metadata import Arithmetic
from image_longitudinal.models.training.processes import cpu_threads, training_processes

P = ParamSpec("P")
R = TypeVar("R")


def arithmetic_of(compute: ComputeConfig) -> Arithmetic:
    """The arithmetic of a training on this machine.

    Raises:
        ConfigError: this machine has no such device.
    """
    device = default_device(compute.device)
    return Arithmetic(
        torch=str(torch.__version__),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        processes=training_processes(compute),
        threads=compute.training_threads,
        instructions=f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
    )


def with_training_threads(function: Callable[P, R]) -> Callable[P, R]:
    """Run a task's function with the number of CPU threads that its argument ``compute`` says."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def with_threads(*args: P.args, **kwargs: P.kwargs) -> R:
        with cpu_threads(signature.bind(*args, **kwargs).arguments["compute"].training_threads):
            return function(*args, **kwargs)

    return with_threads
