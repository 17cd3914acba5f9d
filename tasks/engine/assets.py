"""What the pipeline makes, as assets of Prefect: scans, models, data sets, evaluations, and what each was made from.

Each product that is made (not: found) gives a ``prefect.asset.materialization.succeeded`` event with its figures, which
automations can wait for, and an artifact of its own, whose page leads to those of its parents: Prefect's catalogue of
assets is a page of Prefect Cloud, and a server of one's own shows events and artifacts.

A key is ``KIND://NAME/IDENTITY``. The identity is a digest of what decides the product, so the same product has the
same key on every machine and in every run, and no address, which might hold a password, is part of it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from prefect.artifacts import create_markdown_artifact
from prefect.assets import Asset, AssetProperties, add_asset_metadata, materialize

from image_longitudinal.core.digest import SHORT, digest_of
from image_longitudinal.core.escapes import for_markdown
from image_longitudinal.tasks.engine.progress import artifact_key, in_run

Kind = Literal["folder", "scans", "phantoms", "model", "dataset", "evaluation"]
Figure = str | int | float
NAME_LENGTH = 120  # of the 512 characters that Prefect allows a key
_OTHER = re.compile(r"[^A-Za-z0-9._-]+")  # also no =, which tools take for key=value


@dataclass(frozen=True)
class Product:
    """One product, and those that it was made from.

    Args:
        kind: what it is; ``folder`` is a folder or archive of scans, which is only read.
        name: what people call it.
        identity: digest of what decides it; empty for a folder.
        figures: key figures, and under ``address`` where it is; all JSON values.
        parents: what it was made from.
    """

    kind: Kind
    name: str
    identity: str = ""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    parents: tuple["Product", ...] = ()

    @property
    def key(self) -> str:
        """The key as Prefect requires it: a URI of few kinds of characters."""
        name = _OTHER.sub("-", self.name).strip("-.")[:NAME_LENGTH] or digest_of(self.name)[:SHORT]
        return f"{self.kind}://{name}" + (f"/{self.identity[:SHORT]}" if self.identity else "")

    @property
    def title(self) -> str:
        """Its kind and name, for people."""
        return f"{self.kind} {self.name}"

    @property
    def asset(self) -> Asset:
        """The asset that Prefect knows it by."""
        return Asset(key=self.key, properties=AssetProperties(name=self.title))

    def lineage(self) -> Iterator["Product"]:
        """The product, its parents, and theirs, each once."""
        known: dict[str, Product] = {}
        waiting = [self]
        while waiting:
            one = waiting.pop(0)
            if one.key not in known:
                known[one.key] = one
                waiting += one.parents
        return iter(known.values())


def record_product(product: Product) -> None:
    """Tell the server of a product that was just made. Outside a run nothing is told."""
    if not in_run():
        return
    asset = product.asset

    @materialize(
        asset, by="image-longitudinal", name="record-asset", task_run_name=f"record {product.key}",
        asset_deps=[one.asset for one in product.parents], persist_result=False,
    )  # fmt: skip
    def record() -> None:
        add_asset_metadata(asset, dict(product.figures))
        create_markdown_artifact(page_of(product), key=artifact_key(product.key), description=product.title)

    record()


def page_of(product: Product) -> str:
    """The content of a product's artifact: its figures, and its lineage with links to the pages of those before it."""
    figures = "".join(f"| {for_markdown(name)} | {_shown(value)} |\n" for name, value in product.figures.items())
    rows = "".join(
        f"| {_link(one)} | {', '.join(map(_link, one.parents)) or 'nothing recorded'} |\n" for one in product.lineage()
    )
    return (
        f"`{product.key}`\n\n| figure | |\n|---|---|\n{figures}\n"
        f"Where it comes from:\n\n| product | made from |\n|---|---|\n{rows}"
    )


def _shown(value: Figure) -> str:
    return f"{value:.4g}" if isinstance(value, float) else for_markdown(str(value))


def _link(product: Product) -> str:
    title = for_markdown(product.title)
    if product.kind == "folder":  # was not made here, and has no page
        return title
    return f"[{title}](/artifacts/key/{artifact_key(product.key)})"
