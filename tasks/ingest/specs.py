"""What decides prepared images: the digest of a spec is the cache key of the task that prepares them."""

from collections.abc import Mapping
from typing import ClassVar, Self

from image_longitudinal.core.config import Config, OddScans
from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.specs import Spec
from image_longitudinal.models.imaging.phantom import PHANTOM_VERSION
from image_longitudinal.models.scans.cleaning import PREPARATION_VERSION
from image_longitudinal.storage.scans.scan_files import FoundScans

MASTER_SIZES = (512, 224)  # pixels: the original's two geometries, kept for every preset


FLATTENING_FACTOR = 4  # phantoms of a flattened model are rendered this much larger, and flattened before they shrink


class ImagesSpec(Spec):
    """What phantoms and scans have in common: sizes in pixels, largest first, and the split by patient."""

    code_version: ClassVar[int] = 3

    sizes: tuple[int, ...]
    min_images: int
    validation_fraction: float
    test_fraction: float
    seed: int

    @property
    def fractions(self) -> dict[str, float]:
        """Share of the patients by split."""
        train = 1 - self.validation_fraction - self.test_fraction
        return {"train": train, "validation": self.validation_fraction, "test": self.test_fraction}


class PhantomSpec(ImagesSpec):
    """Phantom images: how many, from which code version."""

    product: ClassVar[str] = "phantom-images"

    n_phantoms: int
    phantom_version: int = PHANTOM_VERSION

    @classmethod
    def of(cls, config: Config) -> Self:
        """The spec of a configuration."""
        source = min(MASTER_SIZES[0], FLATTENING_FACTOR * config.vae.image_size)
        sizes = (source,) if config.vae.kind == "flattened" else ()
        return cls(**_common(config, sizes), n_phantoms=config.images.n_phantoms)


class ScansSpec(ImagesSpec):
    """Images of scans: the files, and how they are cleaned.

    The files and held-out splits are digests: file names may be many, and need not be valid text.
    """

    product: ClassVar[str] = "scan-images"

    files: str
    held_out: str
    denoise: str
    odd_scans: OddScans
    preparation_version: int = PREPARATION_VERSION

    @classmethod
    def of(cls, config: Config, found: FoundScans, held_out: Mapping[str, str]) -> Self:
        """The spec of a configuration, the files found (by name, size and times) and the splits of held-out files.

        Tools may set the time of modification back, as ``cp -p`` and ``rsync -t`` do, but not that of the last change.
        """
        status = [(scan.name, scan.path.stat()) for scan in found.scans]
        files = digest_of([(name, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for name, one in status])
        common = _common(config, MASTER_SIZES)
        images = config.images
        return cls(
            **common,
            files=files,
            held_out=digest_of(dict(held_out)),
            denoise=images.denoise,
            odd_scans=images.odd_scans,
        )

    @property
    def frames_digest(self) -> str:
        """Names the cache of cleaned frames: what decides a frame besides the scan's bytes."""
        decisive = {"denoise": self.denoise, "odd_scans": self.odd_scans}
        return digest_of("clean-frame", self.preparation_version, decisive)


def _common(config: Config, sizes: tuple[int, ...] = ()) -> dict[str, object]:
    images = config.images
    return {
        "sizes": sorted({*sizes, config.vae.image_size, config.diffusion.image_size}, reverse=True),
        "min_images": images.min_images,
        "validation_fraction": images.validation_fraction,
        "test_fraction": images.test_fraction,
        "seed": config.seed,
    }
