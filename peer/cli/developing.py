"""What ``dev`` does: a peer, a chaincode that follows its files, and a prompt.

Room:      peer.cli
Loop:      starts Trio
Lifetime:  until the end of input, or a signal
"""

from __future__ import annotations

import errno
import json
import logging
import shlex
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import click
import trio

from peer import logs
from peer.app import open_peer
from peer.cli import keep_all
from peer.cli.calling import ERROR_THRESHOLD, read_constructor, read_transient
from peer.cli.terminal import Terminal
from peer.config import PeerConfig
from peer.dev import MAX_STATE, Kind, Line, Narration, Project, Session, debugging, name_for, reason
from peer.directories import temporary_directory
from peer.errors import LaunchError, PeerError
from peer.ground import DEFAULT_CHANNEL
from peer.library import Peer, Result
from runtimes.api import PEER_ADDRESS

FREE_PORT = "127.0.0.1:0"
UNLIMITED_S = 7 * 24 * 3600.0
HISTORY = "dev_history"
KIND_WIDTH, SUBJECT_WIDTH, TX_WIDTH = 8, 24, 8
LEAST_DETAIL = 20
WHOLE: Collection[Kind] = ("failed", "output")
"""What is not cut where the terminal ends."""

COLOURS: Mapping[Kind, str] = {
    "call": "bright_white",
    "read": "cyan",
    "range": "cyan",
    "query": "cyan",
    "history": "cyan",
    "write": "yellow",
    "delete": "yellow",
    "purge": "yellow",
    "policy": "yellow",
    "invoke": "magenta",
    "event": "magenta",
    "failed": "red",
    "output": "bright_black",
    "ready": "green",
}

HELP = """\
  invoke F [ARG ...]   call function F and commit what it writes
  query F [ARG ...]    call function F and drop what it writes
                       JSON does as well: invoke {"Args":["F","ARG"]}
                       --transient '{"NAME":"BASE64"}' may follow
  ledger [PREFIX]      the keys of the chaincode, and their values
  restart              start the chaincode again
  help                 this
  exit                 end, as Ctrl-D and Ctrl-C do"""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Wanted(NamedTuple):
    """The command line."""

    path: Path
    name: str
    command: str
    env: Sequence[str]
    init: str
    collections: Path | None
    data: Path | None
    runtime: str | None
    debug_port: int | None
    program: str


class Call(NamedTuple):
    """What follows ``invoke`` or ``query``."""

    args: list[bytes]
    transient: dict[str, bytes]


def develop(wanted: Wanted) -> int:
    """Run a chaincode until it is enough; return the exit code.

    1 if there is no terminal and a line of the input failed.

    Raises:
        click.ClickException, PeerError: it cannot begin.
    """
    project = _project(wanted)
    with ExitStack() as stack:
        # The commands of another terminal find keys there, so it is not the peer's own temporary.
        data = wanted.data or stack.enter_context(temporary_directory()) / "data"
        words = {"invoke", "query", "ledger", "restart", "help", "exit"}
        terminal = Terminal(
            f"{project.name}> ",
            lambda before: seen if before.strip() else words,
            data / HISTORY if wanted.data else None,
        )
        seen: set[str] = set()
        config = _config(wanted, data)
        logs.configure("warning", "text", stream=terminal)
        logging.getLogger("peer.chaincode").addFilter(_is_news)
        stack.enter_context(terminal.open())
        return trio.run(_Developing(wanted, project, config, data, terminal, seen).run)


def _project(wanted: Wanted) -> Project:
    pairs = [each.partition("=") for each in wanted.env]
    if bad := next((name for name, sign, _ in pairs if not (name and sign)), None):
        raise click.BadParameter(f"{bad!r} is not NAME=VALUE", param_hint="--env")
    command = tuple(shlex.split(wanted.command))
    if command and not any(PEER_ADDRESS in word for word in command):
        command += ("-peer.address", PEER_ADDRESS)
    if wanted.debug_port is not None:
        if command:
            raise click.UsageError("--debugpy starts the chaincode itself, without --command")
        if wanted.runtime not in (None, "process"):
            raise click.UsageError(f"--debugpy cannot reach into {wanted.runtime}")
        command = debugging.command(wanted.path, wanted.debug_port)
    return Project(
        path=wanted.path.resolve(),
        name=wanted.name or name_for(wanted.path),
        command=command,
        env={name: value for name, _, value in pairs},
        collections=wanted.collections and wanted.collections.resolve(),
        init=read_call(wanted.init).args if wanted.init else None,
    )


def _is_news(record: logging.LogRecord) -> bool:
    """Keep launches that failed out of the log: whoever waits for one is told, and shows it."""
    return not (
        isinstance(record.args, tuple)
        and any(isinstance(each, LaunchError) for each in record.args)
    )


def _config(wanted: Wanted, data: Path) -> PeerConfig:
    """Return a configuration with a network of its own, which listens, without TLS."""
    config = PeerConfig.load(overrides={"vm.runtime": wanted.runtime} if wanted.runtime else None)
    peer, orderer, chaincode = config.peer, config.orderer, config.chaincode
    if wanted.debug_port is not None:
        chaincode = replace(chaincode, startup_timeout_s=UNLIMITED_S)
    return replace(
        config,
        peer=replace(
            peer,
            file_system_path=str(data.resolve()),
            msp_config_path="",
            listen_address=peer.listen_address or FREE_PORT,
            tls_enabled=False,
        ),
        orderer=replace(orderer, listen_address=orderer.listen_address or FREE_PORT),
        chaincode=replace(chaincode, mode="net"),
    )


def read_call(text: str) -> Call:
    """Read ``f a b`` or ``{"Args": […]}``, and ``--transient JSON`` after either.

    Raises:
        click.ClickException: it is neither.
    """
    text = text.strip()
    try:
        if text.startswith("{"):
            _, end = json.JSONDecoder().raw_decode(text)
            args, rest = read_constructor(text[:end]), shlex.split(text[end:])
        else:
            rest = shlex.split(text)
            count = rest.index("--transient") if "--transient" in rest else len(rest)
            args, rest = [word.encode() for word in rest[:count]], rest[count:]
    except ValueError as exc:
        raise click.ClickException(f"{exc}") from exc
    if rest and (len(rest) != 2 or rest[0] != "--transient"):
        raise click.ClickException(f"what is {' '.join(rest)!r}? (try help)")
    if not args:
        raise click.ClickException("which function? (try help)")
    return Call(args, read_transient(rest[1] if rest else ""))


class _Developing:
    """One run of ``dev``."""

    def __init__(
        self,
        wanted: Wanted,
        project: Project,
        config: PeerConfig,
        data: Path,
        terminal: Terminal,
        seen: set[str],
    ) -> None:
        self._wanted = wanted
        self._project = project
        self._config = config
        self._data = data
        self._terminal = terminal
        self._seen = seen
        self._session: Session | None = None
        self._code = 0

    async def run(self) -> int:
        """Hold everything until the input ends or a signal comes; return the exit code.

        Raises:
            BrokenPipeError: nobody reads.
        """
        with self._terminal.reading:
            await self._run()
        if self._terminal.reading.cancel_called:
            raise BrokenPipeError(errno.EPIPE, "nobody reads")  # click ends quietly with 1
        return self._code

    async def _run(self) -> None:
        narration = Narration(self._tell)
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            async with open_peer(
                self._config,
                trace=narration.on_message,
                on_output=self._on_output,
                is_debugged=self._is_debugged,
            ) as peer:
                keep_all()
                session = self._session = Session(
                    peer, self._project, DEFAULT_CHANNEL, narration, self._tell
                )
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(session.run)
                    nursery.start_soon(self._converse, session, peer, nursery.cancel_scope)
                    nursery.start_soon(self._heed, signals, nursery.cancel_scope)

    async def _heed(self, signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        """End everything at the first signal."""
        async for received in signals:
            self._code = 130 if received == signal.SIGINT else 0
            scope.cancel()

    async def _converse(self, session: Session, peer: Peer, scope: trio.CancelScope) -> None:
        await session.settled()
        if self._terminal.is_interactive:
            self._introduce(peer)
        while (line := await self._terminal.line()) is not None:
            command, _, rest = line.strip().partition(" ")
            if command in ("exit", "quit"):
                break
            if command and not command.startswith("#"):
                await self._obey(session, command, rest)
        scope.cancel()

    async def _obey(self, session: Session, command: str, rest: str) -> None:
        try:
            match command:
                case "invoke":
                    await self._call(session.invoke, rest)
                case "query":
                    await self._call(session.query, rest)
                case "ledger":
                    await self._show_ledger(session, rest.strip())
                case "restart":
                    await session.restart()
                case "help":
                    self._terminal.answer(HELP)
                case _:
                    raise click.ClickException(f"there is no {command!r}; try help")
        except (PeerError, click.ClickException) as exc:
            self._fail(reason(exc) if isinstance(exc, PeerError) else exc.format_message())

    async def _call(
        self, call: Callable[[Sequence[bytes], Mapping[str, bytes]], Awaitable[Result]], text: str
    ) -> None:
        wanted = read_call(text)
        result = await call(wanted.args, wanted.transient)
        if result.status >= ERROR_THRESHOLD:
            self._fail(f"status {result.status}: {logs.printable(result.message)}")
        elif result.validation_code and not result.committed:
            self._fail(f"not committed: {result.validation_code.name}")
        elif result.payload:
            self._terminal.answer(logs.printable(result.payload.decode(errors="replace")))

    async def _show_ledger(self, session: Session, prefix: str) -> None:
        found = await session.state(prefix)
        width = max((len(key) for key, _ in found), default=0)
        for key, value in found:
            self._seen.add(key)
            self._terminal.answer(f"{key:<{width}}  {value}")
        which = f"the first {MAX_STATE}" if len(found) == MAX_STATE else f"{len(found)}"
        self._terminal.tell(f"{which} keys at height {session.height}")

    def _introduce(self, peer: Peer) -> None:
        """Tell how another terminal can call, word for word, and how to debug."""
        keys = f"CORE_PEER_FILESYSTEMPATH={shlex.quote(str(self._data.resolve()))}"
        program = f"{keys} CORE_PEER_ADDRESS={peer.address} {self._wanted.program} chaincode"
        call = f"""-C {DEFAULT_CHANNEL} -n {self._project.name} -c '{{"Args":["F","ARG"]}}'"""
        lines = [
            "from another terminal:",
            f"  {program} invoke -o {peer.orderer_address} {call}",
            f"  {program} query {call}",
        ]
        if self._wanted.debug_port is not None:
            lines.append(
                f"debuggers can connect at {debugging.HOST}:{self._wanted.debug_port}; "
                "while one does, executions have no time limit"
            )
        self._terminal.tell("\n".join([*lines, "help tells what to type; Ctrl-C ends"]))

    def _is_debugged(self) -> bool:
        port = self._wanted.debug_port
        return port is not None and debugging.is_attached(port)

    def _on_output(self, ccid: str, line: str) -> None:
        if self._session is not None:
            self._session.on_output(ccid, line)

    def _tell(self, line: Line) -> None:
        if line.kind in ("call", "read", "write"):
            self._seen.add(line.subject)
        self._terminal.tell(self._laid_out(line))

    def _laid_out(self, line: Line) -> str:
        """Return a line in columns: transaction, kind, subject, detail as far as there is room."""
        colour = (
            partial(click.style, fg=COLOURS.get(line.kind)) if self._terminal.has_colours else str
        )
        head = f"{line.tx[:TX_WIDTH]:<{TX_WIDTH}}  {colour(f'{line.kind:<{KIND_WIDTH}}')}"
        first, *more = logs.printable(line.detail).splitlines() or [""]
        subject = f"{line.subject:<{SUBJECT_WIDTH}}  " if line.subject else ""
        taken = TX_WIDTH + 2 + KIND_WIDTH + len(subject)
        width = self._terminal.width
        if width is not None and line.kind not in WHOLE:
            room = max(width - taken, LEAST_DETAIL)
            first = first if len(first) <= room else f"{first[: room - 1]}…"
        indent = " " * (TX_WIDTH + 2 + KIND_WIDTH)
        return "\n".join([f"{head}{subject}{first}".rstrip(), *(indent + each for each in more)])

    def _fail(self, text: str) -> None:
        """Tell what went wrong with a line of the input."""
        if not self._terminal.is_interactive:
            self._code = 1
        text = f"Error: {text}"
        self._terminal.tell(click.style(text, fg="red") if self._terminal.has_colours else text)
