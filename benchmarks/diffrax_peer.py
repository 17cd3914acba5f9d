"""diffrax on the original's model, timed in a process of its own: it needs no more than diffrax, and nothing of ours.

    python benchmarks/diffrax_peer.py PARAMETERS.npy TIMES.npy ANSWERS.npy

reads individual parameters (n, 3) and times (T,), writes predictions (n, T) and prints seconds per subject, solver by
solver, as JSON. One processor core; tolerance 1e-6; the best of two runs after compilation.
"""

import json
import os
import sys
import time

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)
SOLVERS = {"Tsit5": diffrax.Tsit5, "Kvaerno5": diffrax.Kvaerno5}


def main() -> None:
    parameters, times = jnp.asarray(np.load(sys.argv[1])), jnp.asarray(np.load(sys.argv[2]))

    def rhs(t, x, p):
        return jnp.array([-p[0] * x[0], p[0] * x[0] - p[1] * x[1] / (p[2] + x[1])])

    seconds, answers = {}, {}
    for name, solver in SOLVERS.items():

        def one(p, solver=solver):
            return diffrax.diffeqsolve(
                diffrax.ODETerm(rhs), solver(), 0.0, times[-1], None, jnp.array([1.0, 0.0]), p, max_steps=200_000,
                saveat=diffrax.SaveAt(ts=times), stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-6),
            ).ys[:, 1]  # fmt: skip

        batch = jax.jit(jax.vmap(one))
        batch(parameters).block_until_ready()
        runs = []
        for _ in range(2):
            start = time.perf_counter()
            answers[name] = batch(parameters).block_until_ready()
            runs.append(time.perf_counter() - start)
        seconds[name] = min(runs) / len(parameters)
    fastest = min(seconds, key=lambda name: seconds[name])
    np.save(sys.argv[3], np.asarray(answers[fastest]))
    print(json.dumps({"seconds": seconds, "version": diffrax.__version__, "jax": jax.__version__}))


if __name__ == "__main__":
    main()
