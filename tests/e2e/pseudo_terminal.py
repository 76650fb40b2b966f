"""A program on a terminal, and somebody who types and reads there.

Room:      tests.e2e
Loop:      none
Lifetime:  one program
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

LIMIT_S = 60.0
COLUMNS = 160
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|[\x01\x02\r]")


class Screen:
    """What a program has written to its terminal, without colours and movements."""

    def __init__(self, process: subprocess.Popen[bytes], near: int) -> None:
        self.process = process
        self.text = ""
        self._raw = b""
        self._near = near
        self._read = 0

    def type(self, keys: str) -> None:
        """Press keys; Ctrl-C is ``\\x03``."""
        os.write(self._near, keys.encode())

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait for a pattern behind the last one that was found."""
        end = time.monotonic() + LIMIT_S
        while True:
            found = re.compile(pattern, re.MULTILINE).search(self.text, self._read)
            if found:
                self._read = found.end()
                return found
            if not self._more(end - time.monotonic()):
                raise AssertionError(f"no {pattern!r} in:\n{self.text[self._read :]}")

    def ended(self) -> int:
        """Wait for the end of the program and return its exit code."""
        while self._more(LIMIT_S):
            pass
        return self.process.wait(LIMIT_S)

    @property
    def echoes(self) -> bool:
        """The terminal shows what is typed by itself, as it does for a shell."""
        return bool(termios.tcgetattr(self._near)[3] & termios.ECHO)

    def _more(self, limit_s: float) -> bool:
        """Take in what comes; False once nothing will, or the time is over."""
        if limit_s <= 0 or not select.select([self._near], [], [], limit_s)[0]:
            return False
        try:
            read = os.read(self._near, 65536)
        except OSError:  # Linux says EIO when the far end is closed
            return False
        self._raw += read
        self.text = _ESCAPES.sub("", self._raw.decode(errors="replace"))
        return bool(read)


@contextmanager
def on_terminal(
    *args: str | Path, env: Mapping[str, str], cwd: Path | None = None
) -> Iterator[Screen]:
    """Run a program whose terminal this is; it ends with the context at the latest."""
    near, far = pty.openpty()
    fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    process = subprocess.Popen(
        # The program's session gets the terminal, so that Ctrl-C there is a signal for it.
        ["setsid", "--ctty", *map(str, args)],
        env={**env, "TERM": "xterm"},
        cwd=cwd,
        stdin=far,
        stdout=far,
        stderr=far,
    )
    os.close(far)
    try:
        yield Screen(process, near)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        os.close(near)
