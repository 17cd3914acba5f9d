"""What a data set's images say of its random effects, and its gates, as tables for card, report and artifacts."""

from typing import Any

from image_longitudinal.core.escapes import for_markdown
from image_longitudinal.core.gates import gate_rows
from image_longitudinal.storage.dataset.layout import level_name
from image_longitudinal.storage.dataset.manifest import RootManifest

READERS = {
    "encoder": "the image model's encoder",
    "network": "a network trained to read generated images",
    "regression": "regression on principal components of other images",
}


def readable_rows(manifest: RootManifest) -> list[dict[str, Any]]:
    """One row per random effect and level: share of its variance that is read from images, beside the designed one."""
    if (found := manifest.readability) is None:
        return []
    rows = []
    for effect, name in enumerate(manifest.random_effects):
        for level in manifest.levels:
            own = manifest.designed(level)[effect]
            interval = found.share_interval(effect, own)
            ends = "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
            read = round(found.share(effect, own), 4)
            rows.append({"random effect": name, "designed": own, "read from images": read, "95 % interval": ends})
    return rows


def reading(manifest: RootManifest) -> str:
    """What was read by what, in words; empty for data sets of before this was measured."""
    if (found := manifest.readability) is None:
        return ""
    which = "of its finished images" if found.finished else "images generated in the same way"
    return f"{found.images} {which}, read by {READERS.get(found.read_by, found.read_by)}"


def quality_section(manifest: RootManifest) -> str:
    """The section of the card, as markdown; empty for data sets of before this was measured."""
    found = manifest.readability
    if found is None or len(found.eta) != len(manifest.random_effects):
        return ""
    head = " | ".join(map(level_name, manifest.levels))
    what = "level" if manifest.has_own_associations else "designed ρ²"
    lines = [f"| **{what}** | {head} |", f"|---|{'---|' * len(manifest.levels)}"]
    for effect, name in enumerate(manifest.random_effects):
        of_levels = [manifest.designed(level)[effect] for level in manifest.levels]
        shares = " | ".join(
            f"{found.share(effect, own):.3g}{f' of {own:g}' * manifest.has_own_associations}" for own in of_levels
        )
        lines.append(f"| {for_markdown(name)} (R² of η {found.eta[effect]:.3f}) | {shares} |")
    table = "\n".join(lines)
    return f"""
## What can be read from the images

Share of each random effect's variance that is read from finished images, below the designed one. A reading with R² of
η reads ρ²·R² of the effect; {for_markdown(reading(manifest))}. Another reader may find more, never more than ρ².

{table}
{_gates(manifest)}"""


def _gates(manifest: RootManifest) -> str:
    if not manifest.gates:
        return ""
    rows = "\n".join(
        f"| {for_markdown(row['measured'])} | {for_markdown(row['found'])} | {row['wanted']} | {row['verdict']} |"
        for row in gate_rows(manifest.gates)
    )
    return f"""
What was wanted of image model and data set before it was published:

| measured | found | wanted | |
|---|---|---|---|
{rows}
"""
