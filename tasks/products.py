"""The products of the pipeline, from scan to evaluation, with key figures and what each was made from.

Told to the server by :func:`tasks.engine.assets.record_product` where they are made. What was made from what is read
from the products' own records, not from the server, which forgets events after a week.
"""

from pathlib import Path

from image_longitudinal.core.errors import ImageLongitudinalError
from image_longitudinal.models.evaluation.predictors import IMAGE_PREDICTORS
from image_longitudinal.models.evaluation.records import Evaluation
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.storage.dataset.manifest import RootManifest
from image_longitudinal.storage.scans.prepared import PreparedImages
from image_longitudinal.tasks.engine.assets import Figure, Product
from image_longitudinal.tasks.workspace import Workspace


def prepared_product(prepared: PreparedImages, workspace: Path, source: str | None = None) -> Product:
    """Prepared images; ``source``: the address of the scans, without secrets."""
    manifest = prepared.manifest
    counts = manifest.counts
    figures: dict[str, Figure] = {
        "images": counts.images, "patients": counts.patients, "files set aside": counts.set_aside,
        "sizes": ", ".join(map(str, prepared.sizes)), "address": str(prepared.folder), "workspace": str(workspace),
    }  # fmt: skip
    if source is not None:
        figures["source"] = source
    return _images(manifest.source.folder, prepared.digest, figures)


def model_product(version: ModelVersion, workspace: Path) -> Product:
    """A registered model, whose parents are the images of its training and, of a student, its teacher."""
    metadata, images = version.metadata, version.metadata.images
    parents = [_images(images.folder, images.digest)]
    if metadata.distillation:
        parents.insert(0, Product("model", metadata.distillation.teacher))
    figures: dict[str, Figure] = {
        **metadata.metrics, "kind": metadata.backend, "image size": metadata.networks.image_size,
        "closed gates": sum(not one.passed for one in version.gates), "address": str(version.folder),
        "workspace": str(workspace),
    }  # fmt: skip
    return Product("model", version.version, figures=figures, parents=tuple(parents))


def dataset_product(manifest: RootManifest, address: str, workspace: str) -> Product:
    """A published data set, whose parents are the model of its images and the data set that it shares images with.

    A model that the workspace no longer has, or cannot fetch, is named all the same, without its own parents.
    """
    parents, place = [], Workspace.at(workspace)
    if manifest.image.model != manifest.image.backend:
        try:
            parents.append(model_product(place.model(manifest.image.model), place.root))
        except ImageLongitudinalError:
            parents.append(Product("model", manifest.image.model))
    if origin := manifest.derived_from:
        parents.append(Product("dataset", origin.name, origin.identity))
    figures: dict[str, Figure] = {
        "subjects": manifest.n_subjects, "association levels": ", ".join(f"{one:g}" for one in manifest.levels),
        "image size": manifest.image.width, "images by": manifest.image.model,
        "address": str(Path(address).absolute()) if "://" not in address else address, "workspace": str(place.root),
    }  # fmt: skip
    if manifest.readability:
        figures["R² of the least readable effect"] = min(manifest.readability.eta)
    return Product("dataset", manifest.name, manifest.identity, figures, tuple(parents))


def evaluation_product(evaluation: Evaluation, folder: Path, dataset: Product) -> Product:
    """An evaluation, whose parent is its data set; its figures are those of the best predictor at each level."""
    figures: dict[str, Figure] = {
        "failed checks of the design": len(evaluation.failed), "null check passed": str(evaluation.null.passed),
        "address": str(folder.absolute()),
    }  # fmt: skip
    for level in evaluation.levels:
        found = [level.effects[name].of_realised.value for name in IMAGE_PREDICTORS if name in level.effects]
        if found and level.ceiling.low > 0:
            figures[f"% of the realised ceiling at {level.level:g}"] = round(100 * max(found), 1)
    return Product("evaluation", evaluation.dataset.name, evaluation.key or "", figures, (dataset,))


def _images(folder: str | None, digest: str, figures: dict[str, Figure] | None = None) -> Product:
    if folder is None:
        return Product("phantoms", "images", digest, figures or {})
    return Product("scans", folder, digest, figures or {}, (Product("folder", folder),))
