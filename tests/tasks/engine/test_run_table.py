"""The rows of a run's table: a stage each, in order, with figures; what becomes of them in the UI: tests/e2e."""

from pathlib import Path

from image_longitudinal.core.progress import Counter, Step, listening
from image_longitudinal.tasks.engine.run_table import RunTable


def test_a_stage_is_one_row_that_shows_the_latest(tmp_path: Path) -> None:
    table = RunTable(tmp_path / "not made yet")
    with listening(table.tell):
        training = Counter("train vae", 400, "steps")
        training.update(100, "loss 0.5")
        Counter("make subjects", 48, "subjects").update(48)
        training.update(200, "loss 0.4")
    table.note("read back", "R² 0.96, 0.97")
    training_row, made, read_back, machine = table.rows()
    assert training_row["done"] == "200 of 400 steps"
    assert training_row["rate"].endswith(" steps/s")
    assert training_row["time"].endswith(" left")
    assert training_row["latest"] == "loss 0.4"
    assert (made["done"], made["time"]) == ("48 of 48 subjects", "done in 0 s")
    assert read_back["latest"] == "R² 0.96, 0.97"
    assert machine["latest"].startswith("disk ")


def test_a_stage_of_unknown_length_is_named(tmp_path: Path) -> None:
    table = RunTable(tmp_path)
    table.tell(Step("fit the population"))
    assert table.rows()[0]["stage"] == "fit the population"
