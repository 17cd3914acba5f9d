"""What a power cut may leave of a folder: everything that was synced, and any part of what was not.

:func:`recorded` watches a folder while code runs. POSIX promises the content of a file after fsync of the file, and the
names in a folder after fsync of the folder, and nothing else. At each call that syncs or changes names, a :class:`Cut`
keeps what is then promised and what is there; its states are those that a disk may legally keep.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

CALLS = ("fsync", "replace", "rename", "link", "unlink", "remove", "mkdir", "rmdir")  # of os

Inode = int
Names = Mapping[str, tuple[Inode, bool]]  # of a folder: inode, and whether it is a folder
Tree = dict[str, bytes | None]  # content by relative path; None for a folder


@dataclass(frozen=True)
class Disk:
    """Names and contents by inode: those of the live file system, or those that were synced."""

    folders: Mapping[Inode, Names]
    files: Mapping[Inode, bytes]


@dataclass(frozen=True)
class Cut:
    """The moment before ``call``: the folder ``root`` as it is (``live``), and what of it was ``synced``."""

    call: str
    root: Inode
    live: Disk
    synced: Disk

    def states(self, seed: int = 0) -> Iterator[tuple[str, Tree]]:
        """The extremes of what a disk may keep, and one state in between that depends on the seed."""
        chance = random.Random(seed)

        def some_names(folder: Inode) -> Names:
            return (self.live if chance.random() < 0.5 else self.synced).folders.get(folder, {})

        def some_content(file: Inode) -> bytes:
            whole, kept = self._live_content(file), self._synced_content(file)
            return chance.choice((kept, whole, whole[: len(whole) // 2], bytes(len(whole))))

        yield "what was synced", self._tree(self._synced_names, self._synced_content)
        yield "names before contents", self._tree(self._live_names, self._synced_content)
        yield "names and half of the contents", self._tree(self._live_names, self._half_content)
        yield "contents before names", self._tree(self._synced_names, self._live_content)
        yield "some of both", self._tree(some_names, lambda file: self._kept(file, some_content))

    def _tree(self, names: Callable[[Inode], Names], content: Callable[[Inode], bytes]) -> Tree:
        tree: Tree = {}

        def add(folder: Inode, prefix: str) -> None:
            for name, (inode, is_folder) in names(folder).items():
                tree[prefix + name] = None if is_folder else content(inode)
                if is_folder:
                    add(inode, f"{prefix}{name}/")

        add(self.root, "")
        return tree

    def _live_names(self, folder: Inode) -> Names:
        return self.live.folders.get(folder, {})

    def _synced_names(self, folder: Inode) -> Names:
        return self.synced.folders.get(folder, {})

    def _synced_content(self, file: Inode) -> bytes:
        return self.synced.files.get(file, b"")

    def _live_content(self, file: Inode) -> bytes:
        return self.live.files.get(file, self._synced_content(file))  # a file without a name is not live

    def _half_content(self, file: Inode) -> bytes:
        return self._kept(file, lambda file: self._live_content(file)[: len(self._live_content(file)) // 2])

    def _kept(self, file: Inode, otherwise: Callable[[Inode], bytes]) -> bytes:
        """The content of a file that is unchanged since it was synced; else what ``otherwise`` says."""
        kept = self.synced.files.get(file)
        return kept if kept is not None and kept == self.live.files.get(file, kept) else otherwise(file)


@contextmanager
def recorded(root: Path) -> Iterator[list[Cut]]:
    """The cuts of all that this process does below ``root`` in the body; what is there before counts as synced."""
    cuts, lock, contents = list[Cut](), threading.RLock(), dict[tuple[int, ...], bytes]()
    root.mkdir(parents=True, exist_ok=True)

    def live() -> Disk:
        folders: dict[Inode, Names] = {}
        files: dict[Inode, bytes] = {}
        for parent, _, _ in os.walk(root):
            try:
                found = list(os.scandir(parent))
                folders[os.stat(parent).st_ino] = {one.name: (one.inode(), one.is_dir()) for one in found}
            except FileNotFoundError:  # another thread removed it
                continue
            for one in found:
                if not one.is_dir():
                    files |= read(one.path)
        return Disk(folders, files)

    def read(path: str) -> dict[Inode, bytes]:
        try:
            status = os.stat(path)
            key = (status.st_ino, status.st_size, status.st_mtime_ns)
            if key not in contents:
                contents[key] = Path(path).read_bytes()
            return {status.st_ino: contents[key]}
        except FileNotFoundError:
            return {}

    synced = live()

    def before(call: str, argument: object) -> None:
        nonlocal synced
        now = live()
        known = now.folders.keys() | {inode for names in synced.folders.values() for inode, _ in names.values()}
        known |= now.files.keys()  # inodes are used again: what nothing names is forgotten
        synced = Disk(
            {inode: names for inode, names in synced.folders.items() if inode in known},
            {inode: content for inode, content in synced.files.items() if inode in known},
        )
        cuts.append(Cut(f"{call} {argument}", os.stat(root).st_ino, now, synced))
        if call == "fsync":
            assert isinstance(argument, int)
            inode = os.fstat(argument).st_ino
            folders = {**synced.folders, inode: now.folders[inode]} if inode in now.folders else synced.folders
            files = {**synced.files, inode: now.files[inode]} if inode in now.files else synced.files
            synced = Disk(folders, files)

    def watched(name: str) -> Any:
        real = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            with lock:
                before(name, arguments[0])
                return real(*arguments, **options)

        return call

    with ExitStack() as stack:
        for name in CALLS:
            stack.enter_context(patch.object(os, name, watched(name)))
        yield cuts
    cuts.append(Cut("the end", os.stat(root).st_ino, live(), synced))


def lay_out(tree: Tree, folder: Path) -> None:
    """Write a state to a new folder."""
    folder.mkdir(parents=True)
    for path, content in tree.items():
        if content is None:
            (folder / path).mkdir(parents=True, exist_ok=True)
        else:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
