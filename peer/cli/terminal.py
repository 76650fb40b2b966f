"""Lines from whoever types, and lines for them that come at any time.

Room:      peer.cli
Loop:      Trio; lines are awaited in a thread
Lifetime:  one command

On a terminal there are history, completion and editing, by readline. What is written meanwhile
appears above the line that is being typed.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import click
import trio

_CHUNK_BYTES = 1 << 16
_HISTORY_LINES = 1000


class Terminal:
    """Standard input, output and error of one command.

    Args:
        prompt: stands before what is typed.
        complete: returns words that may stand where one is being typed, out of the line so far.
        history: file that keeps what was typed, None for none.

    Attributes:
        reading: cancelled once nobody reads, which shows in the midst of whatever writes.
    """

    def __init__(
        self, prompt: str, complete: Callable[[str], Iterable[str]], history: Path | None = None
    ) -> None:
        self.is_interactive = sys.stdin.isatty() and sys.stdout.isatty()
        self.has_colours = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        self._can_erase = self.is_interactive and os.environ.get("TERM", "dumb") != "dumb"
        self._prompt = prompt
        self._complete = complete
        self._history = history
        self.reading = trio.CancelScope()
        self._is_typing = False
        self._unread = b""

    @contextmanager
    def open(self) -> Iterator[None]:
        """Hold the terminal; afterwards it is as it was."""
        if not self.is_interactive:
            yield
            return
        import readline
        import termios

        modes = termios.tcgetattr(sys.stdin)
        is_gnu = "libedit" not in (readline.__doc__ or "")
        readline.parse_and_bind("tab: complete" if is_gnu else "bind ^I rl_complete")
        readline.set_completer_delims(" ")
        readline.set_completer(self._completer)
        readline.set_history_length(_HISTORY_LINES)
        if self._history is not None:
            with suppress(OSError):
                readline.read_history_file(self._history)
        try:
            yield
        finally:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, modes)
            if self._is_typing:
                self._put(sys.stdout, "\n")
            if self._history is not None:
                with suppress(OSError):
                    readline.write_history_file(self._history)

    async def line(self) -> str | None:
        """Return the next line, None after the last one.

        Cancellation: leaves the thread to its wait; it ends with the process.
        """
        if not self.is_interactive:
            return await self._piped_line()
        self._is_typing = True
        line = await trio.to_thread.run_sync(self._typed_line, abandon_on_cancel=True)
        self._is_typing = False
        return line

    @property
    def width(self) -> int | None:
        """Columns of the terminal, None where there is none."""
        return shutil.get_terminal_size().columns if sys.stderr.isatty() else None

    def tell(self, text: str) -> None:
        """Write text to standard error."""
        self._write(sys.stderr, text)

    def answer(self, text: str) -> None:
        """Write text to standard output."""
        self._write(sys.stdout, text)

    def write(self, text: str) -> None:
        """Write a record of the log; this and `flush` are for `logs.configure`."""
        self.tell(text.removesuffix("\n"))

    def flush(self) -> None:
        """Do nothing: everything is written at once."""

    def _write(self, file: TextIO, text: str) -> None:
        if not (self._is_typing and self._can_erase):
            self._put(file, f"{text}\n")
            return
        import readline

        typed = readline.get_line_buffer()
        columns = shutil.get_terminal_size().columns
        rows = max(len(self._prompt) + len(typed) - 1, 0) // columns
        up = f"\x1b[{rows}A" if rows else ""
        self._put(sys.stdout, f"\r{up}\x1b[J")
        self._put(file, f"{text}\n")
        self._put(sys.stdout, self._styled(self._prompt) + typed)

    def _put(self, file: TextIO, text: str) -> None:
        try:
            file.write(text)
            file.flush()
        except OSError:  # a closed pipe, a terminal that is gone
            self.reading.cancel()

    def _styled(self, prompt: str) -> str:
        return click.style(prompt, bold=True) if self.has_colours else prompt

    def _typed_line(self) -> str | None:
        before, _, after = self._styled("|").partition("|")  # readline must not count them
        try:
            return input(f"\x01{before}\x02{self._prompt}\x01{after}\x02")
        except EOFError:
            return None

    async def _piped_line(self) -> str | None:
        while b"\n" not in self._unread:
            # The descriptor itself: a thread left in sys.stdin would keep its lock for ever.
            read = await trio.to_thread.run_sync(os.read, 0, _CHUNK_BYTES, abandon_on_cancel=True)
            if not read:
                last, self._unread = self._unread, b""
                return last.decode(errors="replace") if last else None
            self._unread += read
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode(errors="replace")

    def _completer(self, text: str, index: int) -> str | None:
        import readline

        before = readline.get_line_buffer()[: readline.get_begidx()]
        found = sorted(each for each in self._complete(before) if each.startswith(text))
        return f"{found[index]} " if index < len(found) else None
