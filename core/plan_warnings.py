"""What is odd about a configuration though it is possible: shown with the plan of a run, before any work."""

from image_longitudinal.core.config import Config

MANY_SHARDS = 100_000  # from here on, names of files have more than five digits, and a listing takes seconds
READ_SIDE = 32  # pixels a side that an evaluation's PCA regressor averages images down to


def plan_warnings(config: Config, *, generation: bool) -> list[str]:
    """One sentence for each thing that a person may not have meant; ``generation``: a data set will be made."""
    if not generation:
        return []
    dataset, plan = config.dataset, config.dataset.plan
    counts, found = plan.split_counts, []
    if not counts["test"]:
        found.append(
            f"no test subjects ({dataset.n_subjects:,} x dataset.test_fraction {dataset.test_fraction:g} rounds to 0): "
            "evaluate and score need some"
        )
    if not counts["train"]:
        found.append("no training subjects: nothing can be learned from this data set")
    if dataset.shard_size > dataset.n_subjects:
        found.append(
            f"dataset.shard_size {dataset.shard_size:,} is above dataset.n_subjects {dataset.n_subjects:,}: "
            "one shard holds all, and a stopped run begins it again"
        )
    if plan.n_shards >= MANY_SHARDS:
        found.append(
            f"{plan.n_shards:,} shards are as many files in each folder; a larger dataset.shard_size gives fewer"
        )
    side = config.generator.image_size
    if config.generator.backend == "phantom" and (rest := side % max(1, side // READ_SIDE)):
        found.append(
            f"generator.image_size {side} is no multiple of {side // READ_SIDE}: evaluate crops {rest} rows and columns"
        )
    return found
