"""The tables of a study without images."""

import numpy as np
import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.presets import load_config
from image_longitudinal.tasks.population.study import simulate_tables


def test_the_tables_are_those_of_a_data_set_in_any_shards() -> None:
    settings = ["dataset.n_subjects=60", "dataset.test_fraction=0.2"]
    made = simulate_tables(load_config("observational", overrides=[*settings, "dataset.shard_size=60"]))
    again = simulate_tables(load_config("observational", overrides=[*settings, "dataset.shard_size=7"]))
    assert made.effects is not None
    assert made.potential_outcomes is not None
    assert (len(made.subjects), len(made.effects), len(made.observations)) == (60, 120, 60 * 22)
    for one, other in zip(made, again, strict=True):
        assert one is not None
        assert other is not None
        shown = [name for name in one.column_names if name != "shard"]
        assert one.select(shown).equals(other.select(shown))
    arm = made.subjects["arm"].to_numpy()
    assert np.corrcoef(arm, made.propensity["propensity_treated"].to_numpy())[0, 1] > 0  # type: ignore[index]


def test_without_a_study_there_is_nothing_to_simulate() -> None:
    with pytest.raises(ConfigError, match="no study design to simulate"):
        simulate_tables(load_config("demo"))
