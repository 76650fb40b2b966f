"""The peer's end of zygotes: which one forks which chaincode, and when none may.

Room:      runtimes.process   (imports keeper, link, directory, runtimes.api; used by runtime)
Loop:      Trio
Lifetime:  a zygote from the first build that it fits, or from the start of a peer whose
           predecessor forked off its interpreter, until its keeper ends, its files change, or
           others have taken its place
Fabric:    none

Whatever a zygote does not do, an exec does: the only thing lost is time.
"""

from __future__ import annotations

import itertools
import json
import logging
import socket
import struct
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from runtimes.api import ChaincodePackage, RuntimeFailure, RuntimeUnavailable
from runtimes.process import keeper
from runtimes.process.directory import PrivateDirectory
from runtimes.process.link import Child, Command, KeeperLink, refused

log = logging.getLogger("runtimes.process")

PROGRAM = Path(__file__).with_name("zygote.py")
ROOM = " " * 512
"""The last argument: a chaincode's command line is shown in the place of its zygote's."""
ROOM_FOR_ENVIRONMENT = " " * 4096
"""The last variable, likewise."""
MAX_ZYGOTES = 4
READY_LIMIT_S = 10.0
ANSWER_LIMIT_S = 2.0
END_LIMIT_S = 0.5
MAX_REQUEST_BYTES = 128 * 1024
"""Longer command lines and environments do without: no packet may get stuck half way."""

_TWO_INTS = struct.Struct("2i")


@dataclass(frozen=True, slots=True)
class Kind:
    """What the interpreters of two chaincodes must have in common to come from one zygote."""

    interpreter: str
    env: frozenset[tuple[str, str]] = field(repr=False)


def kind_of(
    package: ChaincodePackage, command: Command, directory: PrivateDirectory
) -> Kind | None:
    """Return the kind of a chaincode, None if it has to be executed.

    Of its environment only names that no interpreter heeds are left out: Fabric's, the mark, and
    home and temporary directory as long as they are empty ones.
    """
    if package.type != "python" or package.command or package.launcher is not None:
        return None
    return kind_for(command.argv[0], command.env, directory)


def kind_for(interpreter: str, env: Mapping[str, str], directory: PrivateDirectory) -> Kind | None:
    """Return the kind of what an interpreter runs in an environment; otherwise like `kind_of`."""
    empty = {"HOME": str(directory.home), "TMPDIR": str(directory.tmp)}
    shared = {
        name: value
        for name, value in env.items()
        if not name.startswith("CORE_") and name != keeper.TOKEN and empty.get(name) != value
    }
    if any(name.startswith("PYTHON") for name in shared.keys() - {"PYTHONUNBUFFERED"}):
        return None  # some of them change the start of an interpreter, by its directory even
    if empty.keys() & shared.keys():
        return None
    return Kind(interpreter, frozenset(shared.items()))


class UsedInterpreters:
    """A file that tells the next peer with which interpreters to begin, the last one used last.

    It is what the last peer has left until this one uses an interpreter.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._used: list[str] = []

    def read(self) -> Sequence[str]:
        """Return what is noted, `MAX_ZYGOTES` at most."""
        try:
            return self._path.read_text().splitlines()[-MAX_ZYGOTES:]
        except (OSError, ValueError):  # there is none, or somebody else's
            return ()

    def add(self, interpreter: str) -> None:
        """Note the use of an interpreter. Without the file only time is lost."""
        if self._used[-1:] == [interpreter]:
            return
        others = [used for used in self._used if used != interpreter]
        self._used = [*others, interpreter][-MAX_ZYGOTES:]
        part = self._path.with_suffix(".part")
        with suppress(OSError, ValueError):
            part.write_text("\n".join(self._used))
            part.rename(self._path)


class Refused(Exception):
    """This chaincode is not forked; the text says why."""


class Outdated(Exception):
    """This zygote forks no more, another one could."""


class Zygotes:
    """The zygotes below one keeper, `MAX_ZYGOTES` at most.

    Args:
        parent: of their private directories.
        holders: the nursery they live in.
        used: the interpreters that forks were made of, for the next peer here.
    """

    def __init__(
        self, link: KeeperLink, parent: Path, holders: trio.Nursery, used: UsedInterpreters
    ) -> None:
        self._used = used
        self._link = link
        self._parent = parent
        self._holders = holders
        self._zygotes: dict[Kind, Zygote] = {}
        self._unfit: dict[Kind, str] = {}
        self._opening: defaultdict[Kind, trio.Lock] = defaultdict(trio.Lock)

    async def start(self, child: Child, command: Command, kind: Kind, output: int) -> bool:
        """Fork a chaincode, its output going to the descriptor `output`; False if none may be.

        The first of its kind waits for the zygote, which takes as long as importing by itself,
        unless that was made meanwhile.

        Raises:
            StartFailed: it cannot enter its directory, or its limits cannot be set.
            RuntimeUnavailable: the keeper died.

        Cancellation: the child may run or not; `KeeperLink.end` it.
        """
        request = _request(command, self._link.pid)
        try:
            if len(request) > MAX_REQUEST_BYTES:
                raise Refused(f"command and environment take {len(request)} bytes")
            pid, gate = await self._fork(kind, command, output)
        except (Refused, OSError) as exc:
            log.info("%s %s is not forked: %s", *command.argv[:2], exc)
            return False
        with gate:
            await self._link.adopt(child, command, pid)
            report = b""
            with suppress(ConnectionError):  # killed already; the keeper will tell
                await gate.send(request)
                report = await gate.recv(64)
        if report:
            failed_step, code = report.decode().split()
            raise refused(command, failed_step, int(code))
        self._used.add(kind.interpreter)
        return True

    def prepare(self, kind: Kind) -> None:
        """Begin to make a zygote, unless there is one, so that the first start finds it.

        What goes wrong is left to that start, which tries again.
        """
        if kind not in self._zygotes:
            self._holders.start_soon(self._prepare, kind)

    async def _prepare(self, kind: Kind) -> None:
        with suppress(Refused, OSError):
            await self._zygote(kind)

    async def _fork(
        self, kind: Kind, command: Command, output: int
    ) -> tuple[int, trio.socket.SocketType]:
        for _ in range(2):  # an outdated one gets one successor
            zygote = await self._zygote(kind)
            try:
                return await zygote.fork(str(Path(command.cwd, command.argv[1])), output)
            except Outdated as exc:
                log.info("the zygote of %s is replaced: %s", kind.interpreter, exc)
                zygote.retire()
                reason = str(exc)
        raise Refused(reason)

    async def _zygote(self, kind: Kind) -> Zygote:
        async with self._opening[kind]:
            if kind in self._unfit:
                raise Refused(self._unfit[kind])
            zygote = self._zygotes.pop(kind, None)
            if zygote is None or zygote.retired:
                try:
                    zygote = await self._holders.start(Zygote(kind, self._link, self._parent).hold)
                except Unfit as exc:
                    self._unfit[kind] = str(exc)
                    raise Refused(str(exc)) from exc
                except RuntimeFailure as exc:
                    raise Refused(str(exc)) from exc
            self._zygotes[kind] = zygote  # the last one used is last
            if len(self._zygotes) > MAX_ZYGOTES:
                self._zygotes.pop(next(iter(self._zygotes))).retire()
            return zygote


class Unfit(Exception):
    """No zygote of this kind can be had as long as the peer lives."""


class Zygote:
    """One zygote, an ordinary child of the keeper whose output is a socket."""

    def __init__(self, kind: Kind, link: KeeperLink, parent: Path) -> None:
        self._kind = kind
        self._link = link
        self._directory = PrivateDirectory(parent, {})
        self._child = link.new_child(self._directory.token)
        self._numbers = itertools.count(1)
        self._asking = trio.Lock()
        self._life = trio.CancelScope()

    @property
    def retired(self) -> bool:
        """It forks no more."""
        return self._life.cancel_called or self._child.exited.is_set()

    def retire(self) -> None:
        """End it; its forks live on."""
        self._life.cancel()

    async def hold(self, *, task_status: trio.TaskStatus[Zygote]) -> None:
        """Own everything it has until it has ended.

        Raises:
            Unfit, Refused, StartFailed, RuntimeUnavailable: before it was ready.

        Cancellation: ends it, shielded and bounded.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = trio.socket.from_stdlib_socket(ours)
        with self._socket:
            try:
                with theirs:
                    self._directory.create()
                    await self._link.spawn(self._child, self._command(), theirs.fileno())
                with trio.move_on_after(READY_LIMIT_S) as limit:
                    await self._await_ready()
                if limit.cancelled_caught:
                    raise Unfit(f"its zygote was not ready within {READY_LIMIT_S:g} s")
                log.debug("%s has a zygote, process %s", self._kind.interpreter, self._child.pid)
                task_status.started(self)
                with self._life:
                    await self._child.exited.wait()
            finally:
                self._socket.close()
                with trio.CancelScope(shield=True):
                    if self._child.pid is not None:
                        with trio.move_on_after(END_LIMIT_S):  # it ends when the socket does
                            await self._child.gone.wait()
                    with suppress(RuntimeUnavailable):
                        await self._link.end(self._child, grace_s=0)
                    await trio.to_thread.run_sync(self._directory.remove)

    def _command(self) -> Command:
        env = {
            **dict(self._kind.env),
            keeper.TOKEN: self._directory.token,
            "HOME": str(self._directory.home),
            "TMPDIR": str(self._directory.tmp),
            "TRIOPEER_ROOM": ROOM_FOR_ENVIRONMENT,
        }
        argv = (self._kind.interpreter, str(PROGRAM), ROOM)
        return Command(argv=argv, env=env, cwd="/", limits={"core": 0})

    async def _await_ready(self) -> None:
        said = ""
        while packet := await self._socket.recv(keeper.MAX_PACKET_BYTES):
            match _facts(packet):
                case {"ready": self._kind.interpreter, "argv": list(argv)}:
                    if tuple(argv) == self._command().argv:
                        return
                    raise Unfit(f"it is called with more than we gave: {argv}")
                case {"ready": other}:
                    raise Unfit(f"it is a program that runs {other}")
                case {"unfit": str(reason)}:
                    raise Unfit(reason)
                case {"changed": str(path)}:
                    raise Refused(f"{path} was changed a moment ago")
                case _:
                    said += packet.decode(errors="replace")
        last = said.strip().rpartition("\n")[2]
        raise Unfit(f"its zygote ended: {last[:200]}")

    async def fork(self, script: str, output: int) -> tuple[int, trio.socket.SocketType]:
        """Return the process id of a fork, a child of the keeper, and the socket it waits at.

        Raises:
            Refused: it would not be what an exec makes of this script.
            OSError: the peer has no descriptors left.
            Outdated: this zygote can fork no more.

        Cancellation: the fork ends by itself.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        gate = trio.socket.from_stdlib_socket(ours)
        try:
            with theirs, trio.move_on_after(ANSWER_LIMIT_S):
                fds = _TWO_INTS.pack(output, theirs.fileno())
                await self._ask(script, [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
                theirs.close()
                return int(await gate.recv(16)), gate
            raise Outdated(f"no answer within {ANSWER_LIMIT_S:g} s")
        except BaseException as exc:
            gate.close()
            if isinstance(exc, OSError | ValueError | trio.ClosedResourceError):
                raise Outdated(f"it died: {exc}") from exc
            raise

    async def _ask(self, script: str, fds: list[tuple[int, int, bytes]]) -> None:
        async with self._asking:
            number = next(self._numbers)
            request = json.dumps({"number": number, "script": script}).encode()
            await self._socket.sendmsg([request], fds)
            while packet := await self._socket.recv(keeper.MAX_PACKET_BYTES):
                match _facts(packet):  # others answer somebody who was cancelled, or are output
                    case {"number": n, "forked": True} if n == number:
                        return
                    case {"number": n, "refused": str(reason)} if n == number:
                        raise Refused(reason)
                    case {"number": n, "changed": str(path)} if n == number:
                        raise Outdated(f"{path} has changed")
            raise Outdated("it died")


def _facts(packet: bytes) -> Mapping[str, Any]:
    with suppress(ValueError):
        facts = json.loads(packet)
        if isinstance(facts, dict):
            return facts
    return {}


def _request(command: Command, keeper_pid: int) -> bytes:
    return json.dumps(
        {
            "argv": command.argv,
            "env": dict(command.env),
            "cwd": command.cwd,
            "limits": dict(command.limits),
            "keeper": keeper_pid,
        }
    ).encode()
