"""Verification of a published data set: every byte against its record, and the records against each other."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.files import is_temporary
from image_longitudinal.core.plan import Shard
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset.content_checks import Problem, check_content
from image_longitudinal.storage.dataset.manifest import RootManifest, read_root_manifest, read_shard_manifest
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.storage.io.root import FileRecord, Root


@dataclass(frozen=True)
class VerificationReport:
    """What a verification checked, and the problems it found."""

    url: str
    subjects: int
    files: int
    bytes: int
    problems: tuple[Problem, ...]
    bad_shards: tuple[int, ...] = field(default=())  # regenerating these repairs every problem inside shards
    regenerated: tuple[int, ...] = ()  # ids of subjects that were generated again and compared
    not_checked: str | None = None  # what could not be checked, and why

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def __str__(self) -> str:
        seen = f"{self.url}: {self.subjects} subjects, {self.files} files, {self.bytes / 1e6:.1f} MB"
        if self.regenerated:
            seen += f", {len(self.regenerated)} subjects generated again"
        if self.not_checked:
            seen += f" ({self.not_checked})"
        if self.ok:
            return f"{seen}: all as recorded"
        return "\n".join([f"{seen}: {len(self.problems)} problems", *(f"  {problem}" for problem in self.problems)])


def verify_dataset(
    root: Root,
    *,
    manifest: RootManifest | None = None,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 2,
) -> VerificationReport:
    """Check presence, size and SHA-256 of every file of a data set, then the content of the files.

    The files of a shard that are all intact are also read: schemas, row counts, ids against the plan, the Zarr arrays
    and the other tables, times and doses, value ranges. All latents are read, and the first and last image of each
    shard (hashes cover the others).

    Args:
        root: where the data set is.
        manifest: of a data set about to be published; None for the published one.
        progress: called with (shards checked, shards in all) after each shard.
        workers: threads; each holds one shard's tables at a time.

    Raises:
        StorageError: there is no published data set to verify, or its root manifest is damaged.
    """
    manifest = manifest or read_root_manifest(root)
    dataset = Dataset(root, manifest)
    problems = [problem for file in manifest.files for problem in _check_file(root, file, None)]
    seen = [*manifest.files]
    if len(manifest.shards) != manifest.plan.n_shards:
        expected, got = f"{manifest.plan.n_shards} shards", str(len(manifest.shards))
        problems.append(Problem(layout.ROOT_MANIFEST, "wrong number of shards", None, expected, got))
    with ThreadPoolExecutor(max_workers=max(workers, 1)) as pool:
        listed = {file.path: file for file in manifest.shards}
        jobs = pool.map(lambda shard: _check_shard(dataset, shard, listed), manifest.plan)
        for done, (files, found) in enumerate(jobs, 1):
            seen += files
            problems += found
            if progress:
                progress(done, manifest.plan.n_shards)
    known = {file.path for file in seen} | listed.keys()
    known |= {layout.ROOT_MANIFEST, layout.RUN_FILE, layout.LEASE, layout.HUB_FILE}
    bad = tuple(sorted({problem.shard for problem in problems if problem.shard is not None}))
    for path in root.files():
        if path not in known and not (is_temporary(path) or _shard_of(path) in bad):
            problems.append(Problem(path, "unexpected file"))
    return VerificationReport(
        url=root.url,
        subjects=manifest.n_subjects,
        files=len(seen) + len(listed) + 1,
        bytes=sum(file.bytes for file in (*seen, *manifest.shards)),
        problems=tuple(problems),
        bad_shards=bad,
    )


def _check_shard(
    dataset: Dataset, shard: Shard, listed: dict[str, FileRecord]
) -> tuple[tuple[FileRecord, ...], list[Problem]]:
    """The files that a shard's manifest lists, and all problems of the shard."""
    root, path = dataset.root, layout.shard_manifest_path(shard.index)
    recorded = listed.get(path)
    if recorded is None:
        return (), [Problem(path, "not listed in the root manifest", shard.index)]
    problems = _check_file(root, recorded, shard.index)
    try:
        manifest = read_shard_manifest(root, shard.index)
    except StorageError as error:
        return (), problems or [Problem(path, str(error), shard.index)]
    if manifest is None:
        return (), problems
    if problems:
        return manifest.files, problems
    if expected := sorted(dataset.manifest.shard_files(shard) ^ {file.path for file in manifest.files}):
        problems.append(Problem(path, "its files are not those of the plan", shard.index, got=", ".join(expected)))
    for file in manifest.files:
        problems += _check_file(root, file, shard.index)
    if not problems:
        problems = [replace(problem, shard=shard.index) for problem in check_content(dataset, shard, manifest)]
    return manifest.files, problems


def _check_file(root: Root, file: FileRecord, shard: int | None) -> list[Problem]:
    try:
        size = root.size(file.path)
        if size is None:
            return [Problem(file.path, "missing", shard, f"{file.bytes} bytes")]
        if size != file.bytes:
            return [Problem(file.path, "wrong size", shard, f"{file.bytes} bytes", f"{size} bytes")]
        digest = root.sha256(file.path)
    except StorageError as error:
        return [Problem(file.path, str(error), shard)]
    if digest != file.sha256:
        return [Problem(file.path, "bytes are not as written", shard, f"sha256 {file.sha256}", digest)]
    return []


def _shard_of(path: str) -> int | None:
    """The shard that a file of the layout belongs to, by its name."""
    name = path.rsplit("/", 1)[-1]
    digits = name.removeprefix("part-").split(".")[0]
    if path.startswith(f"{layout.IMAGES}/"):
        parts = path.split("/")
        digits = parts[3] if len(parts) > 3 and parts[2] == "c" else ""
    return int(digits) if digits.isdigit() else None
