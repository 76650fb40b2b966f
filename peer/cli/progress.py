"""What takes long, on one line at the bottom of the terminal.

Room:      peer.cli
Loop:      Trio
Lifetime:  one command
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

import trio

from peer import logs

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger("peer.cli")

AFTER_S = 0.5
EVERY_S = 0.1
LESS_AND_LESS = 4
"""Where there is no terminal, a line each time that a stage has taken so many times longer."""

_ENDS = ("ready", "failed")
_ERASE = "\r\x1b[2K"


@dataclass(slots=True)
class _Work:
    """A launch or another piece of work, and the stage it is in."""

    name: str
    stage: str
    began: float = field(default_factory=trio.current_time)
    stage_began: float = field(default_factory=trio.current_time)
    output: str = ""
    due_s: float = AFTER_S

    def __str__(self) -> str:
        text = f"{self.name}: {self.stage}, {trio.current_time() - self.stage_began:.1f} s"
        return f"{text}: {self.output}" if self.output else text


class Progress:
    """Follows launches and builds; the log writes through it, so that the two do not mix.

    `on_stage` and `on_output` are for `open_peer`, `write` and `flush` for `logs.configure`.

    Args:
        file: gets the line, if it is a terminal that can erase one; else there are log records.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._terminal = _terminal(file)
        self._works: dict[str, _Work] = {}
        self._begun = trio.Event()
        self._is_drawn = False

    def on_stage(self, ccid: str, stage: str, elapsed_s: float) -> None:
        """Follow a launch."""
        if stage in _ENDS:
            self._works.pop(ccid, None)
            self.hide()
        elif ccid in self._works:
            work = self._works[ccid]
            work.stage, work.stage_began, work.due_s = stage, trio.current_time(), AFTER_S
        else:
            self._begin(ccid, _Work(ccid.partition(":")[0], stage))

    def on_output(self, ccid: str, line: str) -> None:
        """Keep the last line of what is followed."""
        work = self._works.get(ccid) or self._works.get("")
        if work is not None:
            work.output = logs.printable(line).strip()

    @contextmanager
    def work(self, name: str, stage: str) -> Iterator[None]:
        """Follow what is no launch, one at a time; what is built meanwhile is part of it."""
        self._begin("", _Work(name, stage))
        try:
            yield
        finally:
            del self._works[""]
            self.hide()

    @asynccontextmanager
    async def showing(self) -> AsyncIterator[None]:
        """Show what takes long while the body runs. Cancellation: the line is gone."""
        failure: BaseException | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._show)
            try:
                yield
            except (Exception, KeyboardInterrupt) as exc:
                failure = exc  # raised below, outside the nursery that would wrap it
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def hide(self) -> None:
        """Make room for a line of others."""
        if self._is_drawn:
            self._is_drawn = False
            self._file.write(_ERASE)
            self._file.flush()

    def write(self, text: str) -> None:
        """Write somebody's text above the line."""
        self.hide()
        self._file.write(text)

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()

    def _begin(self, key: str, work: _Work) -> None:
        self._works[key] = work
        self._begun.set()

    async def _show(self) -> None:
        try:
            while True:
                if not self._works:
                    self._begun = trio.Event()
                    await self._begun.wait()
                await trio.sleep(EVERY_S)
                self._tell()
        finally:
            self.hide()

    def _tell(self) -> None:
        now = trio.current_time()
        if self._terminal is None:
            for work in self._works.values():
                if now - work.stage_began >= work.due_s:
                    work.due_s *= LESS_AND_LESS
                    log.info("%s", str(work))  # it changes
        elif late := [work for work in self._works.values() if now - work.began >= AFTER_S]:
            more = f" (and {len(late) - 1} more)" if len(late) > 1 else ""
            self._draw(self._terminal, f"{late[0]}{more}")

    def _draw(self, terminal: Console, text: str) -> None:
        from rich.text import Text

        line = Text(text)
        line.truncate(terminal.width - 1, overflow="ellipsis")
        self._file.write(f"{_ERASE}{line.plain}")
        self._file.flush()
        self._is_drawn = True


def _terminal(file: TextIO) -> Console | None:
    if not file.isatty():
        return None
    from rich.console import Console

    console = Console(file=file)
    return None if console.is_dumb_terminal else console
