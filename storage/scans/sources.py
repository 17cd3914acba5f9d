"""Sources of scans: a folder, an archive (zip, tar) or an fsspec URL of either, brought to a local folder.

An archive is not trusted: only image files are extracted, under checked names and within limits of count and bytes;
links, devices and paths that leave the folder are skipped. The extracted folder appears whole or not at all.
"""

import contextlib
import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from image_longitudinal.core.digest import SHORT, digest_of, file_sha256
from image_longitudinal.core.errors import IngestError, StorageError
from image_longitudinal.core.files import BLOCK, local_name, move_into_place, portable_name, temporary_folder
from image_longitudinal.core.secrets import hidden, safe_cause
from image_longitudinal.storage.io.remote import RemoteRoot, with_retries
from image_longitudinal.storage.io.root import storage_errors
from image_longitudinal.storage.io.schemes import check_scheme
from image_longitudinal.storage.scans.scan_files import EXTENSIONS, MAX_BYTES, MAX_VOLUME_BYTES
from image_longitudinal.storage.scans.volumes import SUFFIXES as STACKS

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_FILES = 5_000_000
MAX_TOTAL = 1 << 41  # bytes: 2 TiB, many times the largest public collection
MAX_RATIO = 50  # bytes out per byte in: images hardly compress, a bomb unpacks a thousandfold
_ATTRIBUTES = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip
MAX_ATTRIBUTES = 1 << 20  # bytes of a member's long name or attributes in a tar file
RATIO_FROM = 64 << 20  # bytes extracted before the ratio counts: small archives of blank test images are no threat
# What drivers call a checksum, a version or a time of change, in this order; in small letters and digits alone.
MARKS = ("etag", "md5hash", "md5", "contentmd5", "sha", "sha256", "checksum", "blobid", "generation", "versionid",
         "lastmodified", "updated", "mtime", "modified", "modify", "modificationtime", "created")  # fmt: skip

Member = tuple[str, int, IO[bytes]]


def local_scans(source: str | Path, scratch: Path) -> Path:
    """A local folder that holds the scans of ``source`` as they are now.

    Args:
        source: folder; zip or tar file; or URL of a file or folder (http, s3, ...; credentials from the environment).
        scratch: local folder for extracted archives and downloads, named by their content: an archive by its SHA-256,
            what lies behind a URL by what the store says of every file, or by the files if the store says nothing.

    Raises:
        IngestError: nothing found there, or the archive is damaged or too large.
        StorageError: it cannot be written.
    """
    text = hidden(str(source))
    if "://" in text and not text.startswith(("file://", "local://")):
        return _from_url(text, scratch)
    path = Path(text.split("://", 1)[-1])
    if not path.is_file():
        return path
    if not is_archive(path.name):
        raise IngestError(
            "no folder of scans", where=path, expected=f"a folder, or a file ending in {', '.join(ARCHIVES)}",
            got="another file", do="check the path",
        )  # fmt: skip
    with storage_errors("cannot read the archive", str(path)):
        target = scratch / digest_of("archive", file_sha256(path))[:SHORT]
    if not target.exists():
        with storage_errors("cannot extract the scans", str(target)), temporary_folder(target) as folder:
            _extract(path, folder)
            move_into_place(folder, target)
    return target


@dataclass(frozen=True)
class _RemoteFile:
    """A file in a store: its path below the URL ("" for the URL itself), and the store's mark of its content."""

    path: str
    size: int
    mark: str  # changes with the content; empty if the store says nothing


def _from_url(url: str, scratch: Path) -> Path:
    check_scheme(url)
    try:
        root = RemoteRoot(url)
        info = with_retries(lambda: root.fs.info(root.base))
        name = PurePosixPath(url).name
        if info["type"] == "directory":
            files = _listing(root)
        elif is_archive(name):
            files = [_remote_file("", info)]
        else:
            raise IngestError("no scans there", where=url, expected=f"a folder or one of {', '.join(ARCHIVES)}")
        with storage_errors("cannot fetch the scans", str(scratch)):
            return _fetched(root, name, files, scratch)
    except (IngestError, StorageError):
        raise
    except Exception as error:  # drivers raise errors of any type
        raise IngestError(
            "cannot fetch the scans", where=url, got=f"{type(error).__name__}: {error}",
            do="check the address and the credentials in the environment, and that the protocol's driver is installed",
        ) from safe_cause(error)  # fmt: skip


def _fetched(root: RemoteRoot, name: str, files: Sequence[_RemoteFile], scratch: Path) -> Path:
    """The local folder of these files, from an earlier run if the store marks them and the marks are the same."""
    marked = all(file.mark for file in files)
    target = scratch / digest_of(root.url, [(file.path, file.size, file.mark) for file in files])[:SHORT]
    if marked and target.exists():
        return target
    with temporary_folder(target) as folder:
        for file in files:
            stream, place = root.fs.open(root.key(file.path), "rb"), _inside(file.path)
            if not file.path:
                with contextlib.closing(stream), open(folder / name, "wb") as packed:
                    shutil.copyfileobj(stream, packed, BLOCK)
                _extract(folder / name, folder)
                (folder / name).unlink()
            elif place is not None:
                _copy(stream, folder / place, file.size, root.url)
        if not marked:
            inside = sorted(path for path in folder.rglob("*") if path.is_file())
            content = [(portable_name(str(path.relative_to(folder))), file_sha256(path)) for path in inside]
            target = scratch / digest_of(root.url, content)[:SHORT]
        if not target.exists():
            move_into_place(folder, target)
    return target


def _listing(root: RemoteRoot) -> list[_RemoteFile]:
    """The image files below a folder, sorted by path."""
    found = with_retries(lambda: root.fs.find(root.base, detail=True))
    start = len(root.base.strip("/")) + 1
    infos = {name.strip("/")[start:]: info for name, info in found.items() if _wanted(name)}
    if len(infos) > MAX_FILES:
        raise IngestError("too many files", where=root.url, expected=f"at most {MAX_FILES:,}", got=len(infos))
    return [_remote_file(path, info) for path, info in sorted(infos.items())]


def _remote_file(path: str, info: Mapping[str, Any]) -> _RemoteFile:
    size = info.get("size")
    return _RemoteFile(path, MAX_BYTES if size is None else int(size), _mark(info))


def _mark(info: Mapping[str, Any]) -> str:
    """What a store says of a file that changes with its content: a checksum or version, else the time of change."""
    known = {"".join(filter(str.isalnum, key.lower())): value for key, value in info.items()}
    return next((f"{key} {known[key]}" for key in MARKS if known.get(key)), "")


def _extract(archive: Path, folder: Path) -> None:
    """Extract the image files of an archive into ``folder``."""
    total, packed = 0, archive.stat().st_size
    try:
        for count, (name, size, stream) in enumerate(_members(archive), 1):
            inside = _inside(name)
            total += size
            if count > MAX_FILES or total > MAX_TOTAL or (total > RATIO_FROM and total > MAX_RATIO * packed):
                raise IngestError(
                    "the archive is larger than allowed", where=archive,
                    expected=f"at most {MAX_FILES:,} images, {MAX_RATIO} bytes out per byte in", got=f"{total:,} bytes",
                    do="extract it by hand if you trust it",
                )  # fmt: skip
            if inside is not None:
                _copy(stream, folder / inside, size, archive)
    except IngestError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged bytes: zlib.error, LZMAError, MemoryError
        if isinstance(error, OSError) and error.errno:
            raise
        raise IngestError("the archive is damaged or of an unknown kind", where=archive, got=error) from error


def _members(archive: Path) -> Iterator[Member]:
    """Name, declared size and content of every regular image file of an archive, without links and devices."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            for entry in file.infolist():
                kind = entry.external_attr >> 28  # on Unix: 8 regular, 10 link; 0 if not recorded
                if not entry.is_dir() and kind in (0, 8) and _wanted(entry.filename):
                    yield entry.filename, entry.file_size, file.open(entry)
        return
    with tarfile.open(archive, "r:*", tarinfo=_TarInfo, encoding="utf-8") as tar:
        for item in tar:
            if item.isfile() and _wanted(item.name):
                stream = tar.extractfile(item)
                assert stream is not None, "a regular file has content"
                yield item.name, item.size, stream


class _TarInfo(tarfile.TarInfo):
    """A header whose long names and attributes, which are read at once, are no longer than such are."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_TarInfo":
        """The header in a block; ReadError if what follows it would take too much memory."""
        found = super().frombuf(buf, encoding, errors)
        if found.type in _ATTRIBUTES and found.size > MAX_ATTRIBUTES:
            raise tarfile.ReadError(f"a header of {found.size:,} bytes")
        return found


def _inside(name: str) -> Path | None:
    """A member's path below the target, its name as UTF-8 in any locale; None if it would leave the target."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts or any(":" in part or "\0" in part for part in parts):
        return None
    return Path(*map(local_name, parts)) if parts else None


def _copy(stream: IO[bytes], target: Path, size: int, where: object) -> None:
    """Write a member's content; IngestError if it is longer than declared or than an image may be."""
    limit = min(size, MAX_VOLUME_BYTES if target.suffix.lower() in STACKS else MAX_BYTES)
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(stream), open(target, "wb") as file:
        written = 0
        while block := stream.read(BLOCK):
            written += len(block)
            if written > limit:
                raise IngestError(
                    "a file of the archive is larger than it may be", where=f"{where}: {target.name}",
                    expected=f"at most {limit:,} bytes",
                )  # fmt: skip
            file.write(block)


def _wanted(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in EXTENSIONS


def is_archive(name: str) -> bool:
    """Whether a file of this name is taken for an archive."""
    return name.lower().endswith(ARCHIVES)
