"""The peer's end of a keeper process.

Room:      runtimes.process   (imports keeper, runtimes.api; used by runtime)
Loop:      Trio
Lifetime:  one keeper process, from its start to the end of everything it started
Fabric:    none
"""

from __future__ import annotations

import errno
import itertools
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import trio

from runtimes.api import ExitStatus, RuntimeUnavailable, StartFailed
from runtimes.process import keeper

log = logging.getLogger("runtimes.process")

KEEPER_COMMAND = (sys.executable, "-I", "-S", str(Path(keeper.__file__)))
END_S = 5.0
"""Limit for a keeper to kill everything and end, and for a sweep to find nothing more."""
SWEEP_PAUSE_S = 0.01

_C_INT = struct.Struct("i")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to execute.

    Attributes:
        limits: resource limits by their ``RLIMIT_`` name in lower case.
    """

    argv: Sequence[str]
    env: Mapping[str, str] = field(repr=False)
    cwd: str
    limits: Mapping[str, int]


class Child:
    """What the peer knows of one process tree: each event happens once, in this order."""

    def __init__(self, number: int, token: str) -> None:
        self.number = number
        self.token = token
        self.pid: int | None = None
        self.refusal: tuple[str, int] | None = None
        self.status: ExitStatus | None = None
        self.answered = trio.Event()
        self.exited = trio.Event()
        self.gone = trio.Event()


class KeeperLink:
    """One keeper process and the children it holds.

    An async context manager; leaving it kills all children, shielded and bounded.

    Raises:
        RuntimeUnavailable: on entering, when the keeper cannot be executed.
    """

    def __init__(self) -> None:
        self.lost = trio.Event()
        self._children: dict[int, Child] = {}
        self._pongs: dict[int, trio.Event] = {}
        self._numbers = itertools.count(1)
        self._sending = trio.Lock()

    async def __aenter__(self) -> KeeperLink:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = trio.socket.from_stdlib_socket(ours)
        with theirs:
            try:
                self._process = await trio.lowlevel.open_process(
                    KEEPER_COMMAND, stdin=theirs, stdout=subprocess.DEVNULL, start_new_session=True
                )
            except BaseException as exc:
                self._socket.close()
                if isinstance(exc, OSError):
                    raise RuntimeUnavailable(f"cannot execute {KEEPER_COMMAND[0]}: {exc}") from exc
                raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()
        with trio.CancelScope(shield=True):
            with trio.move_on_after(END_S):
                await self._process.wait()
            if self._process.returncode != 0:
                self._process.kill()
                await self._process.wait()
                log.error("the keeper process ended with %s", self._process.returncode)
                try:
                    await sweep({child.token for child in self._children.values()})
                except RuntimeUnavailable as failure:
                    log.error("%s", failure)
        self.lost.set()
        for child in list(self._children.values()):
            self.forget(child)
        for pong in self._pongs.values():
            pong.set()

    async def run(self) -> None:
        """Take in what the keeper reports until it ends."""
        while True:
            try:
                packet = await self._socket.recv(keeper.MAX_PACKET_BYTES)
            except ConnectionResetError:
                return
            if not packet:
                return
            self._take_in(json.loads(packet))

    def new_child(self, token: str) -> Child:
        """Return a child that has yet to be spawned."""
        child = Child(next(self._numbers), token)
        self._children[child.number] = child
        return child

    @property
    def pid(self) -> int:
        """The keeper's own."""
        return self._process.pid

    async def spawn(self, child: Child, command: Command, output: int) -> None:
        """Return once the command is executing, its output going to the descriptor `output`.

        Raises:
            StartFailed: it cannot be executed.
            RuntimeUnavailable: the keeper died.

        Cancellation: the child may run or not; `end` it.
        """
        await self._send({"do": "spawn", "number": child.number, **asdict(command)}, output)
        await _started(child, command)

    async def adopt(self, child: Child, command: Command, pid: int) -> None:
        """Return once the keeper has taken an orphan of its own for the child's main process.

        Raises, cancellation: as `spawn`.
        """
        await self._send({"do": "adopt", "number": child.number, "pid": pid, "token": child.token})
        await _started(child, command)

    async def end(self, child: Child, grace_s: float) -> None:
        """End a tree and return when it is gone: SIGTERM now, SIGKILL `grace_s` seconds later.

        Cancellation: what was asked for goes on.
        """
        if child.gone.is_set():
            return
        try:
            await self._send({"do": "stop", "number": child.number, "grace": grace_s})
            await child.gone.wait()
        except RuntimeUnavailable:  # its end is the end of everything it held
            await self.lost.wait()
            self.forget(child)

    async def ping(self) -> None:
        """Return when the keeper has answered.

        Raises:
            RuntimeUnavailable: it died.
        """
        number = next(self._numbers)
        pong = self._pongs[number] = trio.Event()
        try:
            await self._send({"do": "ping", "number": number})
            await pong.wait()
        finally:
            del self._pongs[number]
        if self.lost.is_set():
            raise RuntimeUnavailable("the keeper process died")

    async def _send(self, request: Mapping[str, Any], fd: int | None = None) -> None:
        packet = json.dumps(request).encode()
        attached = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _C_INT.pack(fd))]
        async with self._sending:
            try:
                await self._socket.sendmsg([packet], attached)
            except (trio.ClosedResourceError, OSError) as exc:
                if isinstance(exc, OSError) and exc.errno == errno.EMSGSIZE:
                    raise StartFailed(
                        f"command and environment take {len(packet)} bytes, more than a packet can"
                    ) from exc
                raise RuntimeUnavailable("the keeper process died") from exc

    def _take_in(self, report: Mapping[str, Any]) -> None:
        number = report["number"]
        if report["event"] == "pong":
            if number in self._pongs:  # else its caller has given up
                self._pongs[number].set()
            return
        child = self._children.get(number)
        if child is None:  # it was taken as gone before the keeper answered
            return
        match report["event"]:
            case "started":
                child.pid = report["pid"]
                child.answered.set()
            case "failed":
                child.refusal = report["stage"], report["errno"]
                self.forget(child)
            case "exited":
                code = report["code"]
                child.status = ExitStatus(code) if code >= 0 else ExitStatus(signal=-code)
                child.exited.set()
            case "gone":
                self.forget(child)

    def forget(self, child: Child) -> None:
        """Take a child as gone."""
        self._children.pop(child.number, None)
        if child.status is None:
            child.status = ExitStatus(signal=signal.SIGKILL)
        for event in (child.answered, child.exited, child.gone):
            event.set()


async def _started(child: Child, command: Command) -> None:
    await child.answered.wait()
    if child.refusal is not None:
        raise refused(command, *child.refusal)
    if child.pid is None:
        raise RuntimeUnavailable("the keeper process died; the next start runs a new one")


async def sweep(tokens: Collection[str]) -> None:
    """Kill every process that carries one of the tokens and return when there are none.

    Raises:
        RuntimeUnavailable: some survive `END_S` seconds of it.

    Cancellation: some may be left.
    """
    left: set[int] = set()
    with trio.move_on_after(END_S):
        while left := await trio.to_thread.run_sync(keeper.marked_processes, tokens):
            keeper.send_signal(left, signal.SIGKILL)
            await trio.sleep(SWEEP_PAUSE_S)
    if left:
        raise RuntimeUnavailable(f"processes {sorted(left)} survive SIGKILL")


def refused(command: Command, step: str, code: int) -> StartFailed:
    """Return the error of a step that the keeper or a zygote reports."""
    return StartFailed(_explain(command, step, code))


def _explain(command: Command, stage: str, code: int) -> str:
    reason = os.strerror(code)
    match stage:
        case "exec":
            name = command.argv[0]
            where = f" in {command.env.get('PATH', '')}" if "/" not in name else ""
            return f"cannot execute {name}{where}: {reason}"
        case "cwd":
            return f"cannot enter {command.cwd}: {reason}"
        case "limits":
            return f"cannot set the limits {dict(command.limits)}: {reason}"
        case _:
            return f"cannot start a process ({stage}): {reason}"
