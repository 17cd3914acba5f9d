"""What a run would refuse, found before anything is started: all problems at once, in seconds, without Prefect.

The flows check again what they need: a run may be started in other ways, and things change. What needs torch, which
takes a second to import, is checked if nothing else is wrong.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from image_longitudinal.core.config import ComputeConfig, Config, DiffusionConfig
from image_longitudinal.core.errors import ConfigError, IngestError, Problems, StorageError
from image_longitudinal.core.estimates import expected_bytes, image_side
from image_longitudinal.core.progress import human_bytes
from image_longitudinal.models.nlme.library import get_model, load_named
from image_longitudinal.models.pretrained import BUNDLED
from image_longitudinal.models.registry.registry import ModelVersion, open_version
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset.manifest import is_published, read_root_manifest
from image_longitudinal.storage.dataset.run_claim import check_configuration
from image_longitudinal.storage.io.local import LocalRoot
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.io.root import Root
from image_longitudinal.storage.scans.scan_files import SetAside, find_scans, read_scan
from image_longitudinal.storage.scans.sources import is_archive
from image_longitudinal.tasks.workspace import Workspace

READ = 100  # scans that are decoded, evenly over the folder: half a second
SURELY = 0.5  # of the estimated bytes are needed at least: images compress to 0.4 to 0.9 of their pixels


@dataclass(frozen=True)
class Found:
    """What a run will find: the model that it uses, its images, scans, finished shards, and room where it writes."""

    model: str | None = None  # None: phantom images, or a model that is still to be trained
    image_side: int | None = None  # pixels, of that model or of phantoms
    diffusion: DiffusionConfig | None = None  # of that model
    scans: int | None = None  # None: none are named, or they are in an archive or elsewhere
    reused: str | None = None  # name of the data set whose images are shared
    finished: int = 0
    free: int | None = None  # None: not a local folder


def check_names(config: Config) -> None:
    """Check that a user's own configuration names a known backend and longitudinal model, whose code runs.

    Raises:
        ConfigError: it does not, or ``dataset.eta_dims`` does not have one dimension for each random effect.
    """
    from image_longitudinal.models.imaging.backends import import_backend

    import_backend(config.generator.backend)
    _check_effects(config)


def check_sources_are_used(config: Config, images: str | None, model: str | None) -> None:
    """Check that images come from the model that is named, or from one trained on the scans, if either is.

    Raises:
        ConfigError: the model or the scans would not be used.
    """
    named = {"model": model, "images": images}
    if not _is_trained(config):
        for argument, name in named.items():
            if name is not None:
                raise ConfigError(
                    f"{argument} {name} would not be used: the images are phantoms", where="generator.backend",
                    expected="diffusion or vae", got=config.generator.backend,
                    do=f"add --set generator.backend=diffusion, or leave out {argument}",
                )  # fmt: skip
    if model is not None and images is not None:
        raise ConfigError(
            f"images {images} would not be used: model {model} is trained", where="images",
            expected="a model, or images to train one on", got="both", do="leave out one of them",
        )  # fmt: skip


def check_eta_dims(eta_dims: tuple[int, ...], config: Config, latent_dim: int) -> None:
    """Check the latent dimensions of the random effects against both models.

    Raises:
        ConfigError: they are too few or too many, or the images have no such dimension.
    """
    count = get_model(config.outcomes.model).n_random_effects
    if len(eta_dims) != count or max(eta_dims) >= latent_dim:
        raise ConfigError(
            "dataset.eta_dims do not fit",
            expected=f"{count} different ones from 0 to {latent_dim - 1} (model {config.outcomes.model})",
            got=list(eta_dims),
        )


def foresee_generation(
    problems: Problems,
    config: Config | None,
    output: str,
    images: str | None,
    model: str | None,
    workspace: str,
    reuse: str | None,
) -> Found:
    """Check the arguments of ``generate-dataset``; see :mod:`flows.generate_dataset`.

    Args:
        problems: gets what a run would refuse.
        config: None if it cannot be read: then only what does not depend on it is checked.
        output, images, model, workspace, reuse: those of the flow.
    """
    version, scans, reused, finished, free = None, None, None, 0, None
    with problems.noting():
        if model is not None:
            version = _version(model, Workspace.at(workspace))
    if reuse is not None:
        with problems.noting():
            reused = read_root_manifest(open_root(reuse)).name
    if config is None:
        with problems.noting():
            open_root(output)
        return Found()
    side = version.metadata.networks.image_size if version else image_side(config)
    if model is None and _is_trained(config):
        scans = _check_training(problems, config, images, workspace)
    with problems.noting():
        check_sources_are_used(config, images, model)
    with problems.noting():
        _check_effects(config)
    with problems.noting():
        root = open_root(output)
        check_configuration(root, config.recorded)
        finished = _finished(root)
        free = _room(root, config, side, finished)
    with problems.noting():
        _check_executor(config.compute)
    if not problems.found:
        _check_generator(problems, config, version)
    name, diffusion = (version.version, version.metadata.networks.diffusion) if version else (None, None)
    return Found(name, side, diffusion, scans, reused, finished, free)


def foresee_training(problems: Problems, config: Config | None, images: str | None, workspace: str) -> Found:
    """Check the arguments of ``train-models``, as :func:`foresee_generation` does."""
    if config is None:
        return Found()
    with problems.noting():
        if not _is_trained(config):
            expected = "generator.backend vae or diffusion"
            raise ConfigError("nothing to train", expected=expected, got=config.generator.backend)
    scans = _check_training(problems, config, images, workspace)
    if not problems.found:
        _check_generator(problems, config, None)
    return Found(scans=scans)


def foresee_ingest(problems: Problems, config: Config | None, images: str | None, workspace: str) -> None:
    """Check the arguments of ``ingest-images``."""
    if config is not None:
        _check_training(problems, config, images, workspace)


def foresee_measurement(
    problems: Problems, config: Config | None, model: str, images: str | None, workspace: str
) -> None:
    """Check the arguments of a flow that takes a registered model and the scans of its training.

    Those are ``distill-model`` and ``remeasure-model``.
    """
    with problems.noting():
        _version(model, Workspace.at(workspace))
    foresee_ingest(problems, config, images, workspace)


def foresee_evaluation(
    problems: Problems,
    config: Config | None,
    dataset: str,
    output: str | None,
    workspace: str,
    overwrite: bool,
    trust: tuple[str, ...],
) -> None:
    """Check the arguments of ``evaluate-dataset``; imports Prefect if nothing else is wrong."""
    with problems.noting():
        _check_writable(Workspace.at(workspace).root)
    for name in trust:
        with problems.noting():
            if name.endswith(".py") and not Path(name).is_file():
                raise ConfigError("no such model file", where=name)
    with problems.noting():
        read_root_manifest(open_root(dataset))
    if config is None or problems.found:
        return
    with problems.noting():
        from image_longitudinal.tasks.evaluation.planned import plan_evaluation

        plan_evaluation(dataset, output, config, workspace, 1, overwrite)


def _check_effects(config: Config) -> None:
    load_named(config.outcomes.model)
    count, eta_dims = get_model(config.outcomes.model).n_random_effects, config.dataset.eta_dims
    if eta_dims != "auto" and len(eta_dims) != count:
        expected = f"{count} dimensions ({config.outcomes.model})"
        raise ConfigError("dataset.eta_dims do not fit", expected=expected, got=list(eta_dims))
    if config.study.active:
        from image_longitudinal.models.design.study import check_study

        dims = tuple(range(count)) if eta_dims == "auto" else eta_dims  # which ones does not matter to what can be had
        own = () if config.study.entries == "auto" else config.study.entries
        check_study(
            config.study, config.outcomes, config.seed, config.dataset.association, max((*dims, *own)) + 1, dims
        )


def _is_trained(config: Config) -> bool:
    """Whether the image model is a network; as :func:`models.imaging.backends.needs_training`, without torch."""
    return config.generator.backend != "phantom"


def _version(name: str, workspace: Workspace) -> ModelVersion:
    """A registered version; the bundled one is not copied into the workspace, as a run does."""
    return open_version(BUNDLED[name]) if name in BUNDLED else workspace.registry.get(name)


def _check_generator(problems: Problems, config: Config, version: ModelVersion | None) -> None:
    """Check backend, device, and a model that exists against the configuration; imports torch."""
    from image_longitudinal.models.imaging.backends import describe, import_backend
    from image_longitudinal.models.imaging.device import default_device

    with problems.noting():
        default_device(config.compute.device)
    with problems.noting():
        import_backend(config.generator.backend)
        if version is not None or not _is_trained(config):
            described = describe(config.generator, version)
            if config.dataset.eta_dims != "auto":
                check_eta_dims(config.dataset.eta_dims, config, described.latent_dim)


def _check_training(problems: Problems, config: Config, images: str | None, workspace: str) -> int | None:
    """Check the scans and the workspace; the number of scans, if they are in a local folder."""
    with problems.noting():
        _check_writable(Workspace.at(workspace).root)
    if images is None or "://" in images:
        return None
    with problems.noting():
        path = Path(images)
        if path.is_file() and is_archive(path.name):
            return None
        found = find_scans(path).scans
        some = found[:: -(-len(found) // READ)]
        bad = [one for one in map(read_scan, some) if isinstance(one, SetAside)]
        usable = len(found) - len(bad) * len(found) // len(some)
        if usable < config.images.min_images and (len(some) == len(found) or len(bad) == len(some)):
            reasons = f"; the first: {bad[0].file}: {bad[0].reason}" if bad else ""
            raise IngestError(
                "too few usable scans", where=path, expected=f"at least images.min_images = {config.images.min_images}",
                got=f"{usable} of {len(found)}{reasons}",
            )  # fmt: skip
        return len(found)
    return None


def _check_executor(compute: ComputeConfig) -> None:
    if compute.executor == "work-pool" and not os.environ.get("PREFECT_API_URL"):
        do = "start server, deployments and workers: make server, make deploy, make worker POOL=shards"
        raise ConfigError("compute.executor=work-pool needs a Prefect server", expected="PREFECT_API_URL", do=do)


def _finished(root: Root) -> int:
    """Shards that have a manifest."""
    if is_published(root):
        return read_root_manifest(root).plan.n_shards
    return sum(path.endswith(".json") for path in root.files(layout.SHARDS))


def _room(root: Root, config: Config, side: int, finished: int) -> int | None:
    """Free bytes where the data set is written.

    Raises:
        StorageError: too few for the shards that are missing, or nothing can be written there.
    """
    missing = 1 - finished / config.dataset.plan.n_shards
    if not isinstance(root, LocalRoot) or missing <= 0:
        return None
    _check_writable(root.folder)
    free, needed = shutil.disk_usage(_existing(root.folder)).free, missing * expected_bytes(config, side)
    if free < SURELY * needed:
        raise StorageError(
            "the disk is too full", where=root.url, expected=f"about {human_bytes(needed)}",
            got=f"{human_bytes(free)} free", do="free space, or choose another output",
        )  # fmt: skip
    return free


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _check_writable(folder: Path) -> None:
    existing = _existing(folder)
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        got = "a file" if not existing.is_dir() else "no permission to write"
        do = "choose another place, or share this one: docs/howto/operations.md, several accounts"
        expected = "a folder that this account may write to"
        raise StorageError(
            "nothing can be written there", where=folder, expected=expected, got=f"{existing}: {got}", do=do
        )
