"""The tables of a study design without images, in memory."""

from tempfile import TemporaryDirectory
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from image_longitudinal.core.config import Config
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.design.study import check_study
from image_longitudinal.models.nlme.library import get_model, load_named
from image_longitudinal.storage.dataset.study_columns import EFFECTS, POTENTIAL, PROPENSITY
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.io.root import FileRecord
from image_longitudinal.tasks.shards.specs import OutcomeSpec
from image_longitudinal.tasks.shards.study import study_info, write_study


class SimulatedStudy(NamedTuple):
    """Tables in the columns of a data set (docs/reference/designs.md), shard after shard, level after level."""

    subjects: pa.Table
    random_effects: pa.Table
    observations: pa.Table
    potential_outcomes: pa.Table | None
    effects: pa.Table | None
    propensity: pa.Table | None


def simulate_tables(config: Config) -> SimulatedStudy:
    """The tables of the study that a configuration describes.

    Raises:
        ConfigError: no study design, or one that cannot be had.
    """
    if not config.study.active:
        raise ConfigError(
            "no study design to simulate", expected="a section study", do="use --preset trial, or simulate"
        )
    load_named(config.outcomes.model)
    count, dims = get_model(config.outcomes.model).n_random_effects, config.dataset.eta_dims
    eta_dims = tuple(range(count)) if dims == "auto" else dims
    own = () if config.study.entries == "auto" else config.study.entries
    latent_dim = max(config.generator.latent_dim, max((*eta_dims, *own)) + 1)
    levels = config.dataset.association
    check_study(config.study, config.outcomes, config.seed, levels, latent_dim, eta_dims)
    whole, plan = OutcomeSpec.of(config, latent_dim, eta_dims), config.dataset.plan
    info = study_info(whole)
    assert info is not None, "an active study"
    with TemporaryDirectory() as folder:
        root, records = open_root(folder), list[FileRecord]()
        for shard in plan:
            records += write_study(root, whole.of_shard(shard), info)

        def table(name: str) -> pa.Table:
            paths = [file.path for file in records if file.path.startswith(f"{name}/")]
            return pa.concat_tables([pq.read_table(f"{folder}/{path}") for path in paths])

        truth = [table(name) if info.arms else None for name in (POTENTIAL, EFFECTS, PROPENSITY)]
        return SimulatedStudy(table("subjects"), table("random_effects"), table("observations"), *truth)
