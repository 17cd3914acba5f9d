"""diffrax on the original's model, timed in a separate process that needs only diffrax.

    python benchmarks/diffrax_peer.py PARAMETERS.npy TIMES.npy REFERENCE.npy

reads individual parameters (n, 3), times (T,) and accurate predictions (n, T), and prints as JSON the seconds
per subject by vmap on one core, for each solver, tolerance and batch size: after compilation, the faster of two runs.
The stiffest subject of a batch determines vmap's time, and small batches have more calls: the best size is in between.
"""

import json
import os
import sys
import time
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)
Array = Any  # of JAX, which is installed in another environment
# The implicit solver takes five times as long as the explicit one at its best batch size, and minutes at others.
RUNS = {
    "Tsit5": (diffrax.Tsit5, (1e-6, 1e-8), (10, 30, 50, 100, 300, 1_000, 10_000)),
    "Kvaerno5": (diffrax.Kvaerno5, (1e-6, 1e-8), (300,)),
}
ENOUGH = 2_000  # subjects solved, unless a batch is larger


def main() -> None:
    parameters, times, reference = (np.load(file) for file in sys.argv[1:4])
    found = []
    for name, (solver, tolerances, batches) in RUNS.items():
        for tolerance in tolerances:
            for batch in (size for size in batches if size <= len(parameters)):
                n = max(batch, min(ENOUGH, len(parameters))) // batch * batch
                seconds, answers = timed(solver(), tolerance, parameters[:n].reshape(-1, batch, 3), jnp.asarray(times))
                error = float(np.abs(answers.reshape(n, -1) - reference[:n]).max())
                figures = {"tolerance": tolerance, "batch": batch, "seconds": seconds / n, "error": error}
                found.append({"solver": name, **figures})
    print(json.dumps({"runs": found, "version": diffrax.__version__, "jax": jax.__version__}))


def rhs(t: Array, x: Array, p: Array) -> Array:
    return jnp.array([-p[0] * x[0], p[0] * x[0] - p[1] * x[1] / (p[2] + x[1])])


def timed(solver: Any, tolerance: float, batches: np.ndarray, times: Array) -> tuple[float, np.ndarray]:
    """Seconds for all batches (m, b, 3), and the central amounts (m, b, T)."""

    def one(p: Array) -> Array:
        return diffrax.diffeqsolve(
            diffrax.ODETerm(rhs), solver, 0.0, times[-1], None, jnp.array([1.0, 0.0]), p, max_steps=200_000,
            saveat=diffrax.SaveAt(ts=times), stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        ).ys[:, 1]  # fmt: skip

    solve = jax.jit(jax.vmap(one))
    on_device = [jnp.asarray(batch) for batch in batches]
    solve(on_device[0]).block_until_ready()
    runs = []
    for _ in range(2):
        start = time.perf_counter()
        answers = [solve(batch).block_until_ready() for batch in on_device]
        runs.append(time.perf_counter() - start)
    return min(runs), np.asarray(answers)


if __name__ == "__main__":
    main()
