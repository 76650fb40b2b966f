"""Notice that files have changed.

Room:      peer.dev   (used by session)
Loop:      Trio; files are looked at in a thread
Lifetime:  a session

It looks again and again: that works on every file system, those of other machines and containers
included, which tell nobody of changes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import trio

from peer.lifecycle.packages import NOT_CODE

EVERY_S = 0.1
"""Pause between two looks."""
SETTLE_S = 0.03
"""Nothing may change for so long: editors and checkouts write in several steps."""
SHARE = 20
"""A look may take one part in so many of the time; where there are many files the pauses grow."""

PASSED_OVER = NOT_CODE | {"build", "target"}
"""Directories of tools and builds. Hidden names, and those that end in ``~``, are passed over, too:
editors keep their own files there."""

Snapshot = Mapping[str, tuple[int, int, int]]
"""Path → time of the last change in nanoseconds, size, inode."""


class Watcher:
    """Looks at all files below directories, and at single files; none need be there.

    Args:
        paths: where to look.
    """

    def __init__(self, *paths: Path) -> None:
        self._paths = paths

    async def look(self) -> Snapshot:
        """Return what is there now."""
        return await trio.to_thread.run_sync(_look, self._paths)

    async def change(self, since: Snapshot) -> Snapshot:
        """Return what is there once it differs from `since`, and does not change any more."""
        while True:
            began = trio.current_time()
            now = await self.look()
            took_s = trio.current_time() - began
            while now != since:
                await trio.sleep(SETTLE_S)
                before, now = now, await self.look()
                if before == now:
                    return now
            await trio.sleep(max(EVERY_S, SHARE * took_s))


def difference(before: Snapshot, after: Snapshot, directory: Path) -> list[str]:
    """Return the files that are not the same in both, relative to a directory."""
    paths = {path for path, _ in before.items() ^ after.items()}
    return sorted(os.path.relpath(path, directory) for path in paths)


def _look(paths: Sequence[Path]) -> Snapshot:
    found = {}
    for path in paths:
        for file in _files_below(path) if path.is_dir() else [path]:
            try:
                status = os.stat(file)
            except OSError:  # it has just gone
                continue
            found[str(file)] = (status.st_mtime_ns, status.st_size, status.st_ino)
    return found


def _files_below(directory: Path) -> Iterator[str]:
    for root, directories, names in os.walk(directory):
        directories[:] = [name for name in directories if _counts(name)]
        yield from (os.path.join(root, name) for name in names if _counts(name))


def _counts(name: str) -> bool:
    return not (name in PASSED_OVER or name.startswith(".") or name.endswith("~"))
