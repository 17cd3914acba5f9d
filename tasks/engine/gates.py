"""Gates in a run: shown on the console, in the log and as an artifact; a closed one ends the run."""

import logging
from collections.abc import Sequence

from prefect.artifacts import create_table_artifact

from image_longitudinal.core.gates import Gate, gate_rows, require_open
from image_longitudinal.tasks.engine.progress import artifact_key, in_run, run_logger


def pass_gates(gates: Sequence[Gate], what: str, refusal: str) -> None:
    """Show gates, and go on only if none is closed.

    Args:
        gates: with what was accepted on purpose.
        what: they are gates of this, such as "model": the artifact's key and description.
        refusal: what does not happen if one is closed, such as "the model is not registered".

    Raises:
        RefusedByGateError: one is closed; the artifact and the log say so too.
    """
    show_gates(gates, what)
    require_open(gates, refusal)


def show_gates(gates: Sequence[Gate], what: str) -> None:
    """Log each gate, with a warning if it has not passed, and show all in a table."""
    for one in gates:
        run_logger().log(logging.INFO if one.passed else logging.WARNING, f"gate: {one}")
    if in_run() and gates:
        create_table_artifact(gate_rows(gates), key=artifact_key(f"gates-{what}"), description=f"Gates: {what}")
