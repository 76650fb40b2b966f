"""A chaincode under development: started anew whenever its files change, on a ledger that stays.

Room:      peer.dev   (imports library, client, narration, watching; used by cli)
Loop:      Trio
Lifetime:  as long as `run` runs
Fabric:    none; `chaincode.mode: dev` leaves all of this to its user
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from fabric_protos.protos import CollectionConfigPackage
from peer.client.collections import read_collections
from peer.dev.narration import Line, Narration, Tell, name_of, shown
from peer.dev.watching import Watcher, difference
from peer.endorser.endorser import ERROR_THRESHOLD
from peer.errors import InvalidDefinition, InvalidInvocation, LaunchError, PeerError
from peer.library import Peer, Result

BUILT = ("build/libs/chaincode.jar", "target/chaincode.jar")
"""What is run out of directories that are not watched otherwise."""
MAX_STATE = 100
"""Records of the ledger that are listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """What is developed.

    Attributes:
        path: directory of the code.
        name: what it is called as.
        command, env: see `Peer.install`.
        collections: JSON file of its private data collections, None without any.
        init: the call that initialises it; None if it needs none.
    """

    path: Path
    name: str
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    collections: Path | None = None
    init: Sequence[bytes] | None = None


def name_for(path: Path) -> str:
    """Return a name for the chaincode of a directory that is called like the directory."""
    return (
        "-".join(re.findall(r"[A-Za-z0-9]+(?:_[A-Za-z0-9]+)*", path.resolve().name)) or "chaincode"
    )


class Session:
    """Keeps one chaincode running while it is changed.

    Args:
        channel_id: where it is defined; the peer has joined it.
        narration: hears of the channel's blocks.
        tell: hears of starts, failures and output.
    """

    def __init__(
        self, peer: Peer, project: Project, channel_id: str, narration: Narration, tell: Tell
    ) -> None:
        self.project = project
        self._peer = peer
        self._channel_id = channel_id
        self._narration = narration
        self._tell = tell
        self._ledger = peer.ledger(channel_id)
        self._ccid = self._heard = ""
        self._is_initialised = project.init is None
        self._is_settled = trio.Event()
        self._is_wanted = trio.Event()
        self._told = self._ledger.height
        self._more_told = trio.Event()

    async def run(self) -> None:
        """Start the chaincode, and again after every change. Cancellation: the only end."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow_blocks)
                await self._follow_files()
        finally:
            self._heard = ""

    async def settled(self) -> None:
        """Return once the chaincode runs, or could not be started."""
        await self._is_settled.wait()

    async def restart(self) -> None:
        """Stop what runs, start it again, and return like `settled`."""
        await self.settled()
        if self._ccid:
            await self._peer.chaincode.stop(self._ccid)
        self._unsettle()
        self._is_wanted.set()
        await self.settled()

    async def invoke(
        self, args: Sequence[bytes], transient: Mapping[str, bytes] | None = None
    ) -> Result:
        """Call the chaincode once it is settled, commit what it wrote, and see the block told.

        Raises: as `Peer.invoke`.
        """
        await self.settled()
        name, channel_id = self.project.name, self._channel_id
        result = await self._peer.invoke(channel_id, name, args, transient=transient)
        while self._told < self._ledger.height:
            await self._more_told.wait()
        return result

    async def query(
        self, args: Sequence[bytes], transient: Mapping[str, bytes] | None = None
    ) -> Result:
        """Call the chaincode once it is settled, and drop what it wrote.

        Raises: as `Peer.query`.
        """
        await self.settled()
        name, channel_id = self.project.name, self._channel_id
        return await self._peer.query(channel_id, name, args, transient=transient)

    async def state(self, prefix: str) -> list[tuple[str, str]]:
        """Return the chaincode's keys that begin so, and their values, as they are told.

        The first `MAX_STATE`, without private data and what the peer notes under its name.
        """
        reader = self._ledger.new_query_executor()
        found: list[tuple[str, str]] = []
        try:
            records = reader.get_state_range(self.project.name, "", "")
            while len(found) < MAX_STATE and (taken := await records.take(MAX_STATE)):
                named = [
                    (name_of(each.key), shown(each.value)) for each in taken if _is_own(each.key)
                ]
                found += [each for each in named if each[0].startswith(prefix)]
            records.close()
        finally:
            reader.done()
        return found[:MAX_STATE]

    @property
    def height(self) -> int:
        """Number of blocks of the channel."""
        return self._ledger.height

    def on_output(self, ccid: str, line: str) -> None:
        """Tell of a line the chaincode wrote.

        Those of a build come with its failure, and last words of what is stopped interest nobody.
        """
        if ccid == self._heard:
            self._tell(Line("output", detail=line))

    async def _follow_files(self) -> None:
        extra = [self.project.path / each for each in BUILT]
        if self.project.collections is not None:
            extra.append(self.project.collections)
        watcher = Watcher(self.project.path, *extra)
        before = await watcher.look()
        self._tell(Line("start", subject=self.project.name, detail=str(self.project.path)))
        while True:
            # A change cuts a start short: what is being built is not wanted any more.
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._start)
                nursery.start_soon(self._start_when_wanted)
                after = await watcher.change(before)
                self._unsettle()
                nursery.cancel_scope.cancel()
            names = difference(before, after, self.project.path)
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            self._tell(Line("change", subject=f"{names[0]}{more}"))
            before = after

    def _unsettle(self) -> None:
        if self._is_settled.is_set():  # else whoever waits goes on to
            self._is_settled = trio.Event()

    async def _start_when_wanted(self) -> None:
        while True:
            await self._is_wanted.wait()
            self._is_wanted = trio.Event()
            await self._start()

    async def _start(self) -> None:
        began = trio.current_time()
        self._heard = ""
        try:
            package = await self._peer.install(
                self.project.path,
                name=self.project.name,
                init_required=self.project.init is not None,
                collections=await self._collections(),
                command=self.project.command,
                env=self.project.env,
            )
            self._ccid = self._heard = package.ccid
            await self._peer.chaincode.launch(package.ccid)
            took_ms = (trio.current_time() - began) * 1e3
            what = f"{package.type} in {took_ms:.0f} ms"
            self._tell(Line("ready", subject=self.project.name, detail=what))
            await self._initialise()
        except LaunchError as exc:
            self._tell(Line("failed", detail=reason(exc)))
        except PeerError as exc:
            self._heard = self._ccid
            before = "\nwhat ran before still answers" if self._ccid else ""
            self._tell(Line("failed", detail=f"{exc}{before}"))
        self._is_settled.set()

    async def _initialise(self) -> None:
        if self._is_initialised or self.project.init is None:
            return
        try:
            result = await self._peer.invoke(
                self._channel_id, self.project.name, self.project.init, is_init=True
            )
        except InvalidInvocation:  # it was, on this ledger, some time before
            self._is_initialised = True
        except PeerError as exc:
            self._tell(Line("failed", subject="init", detail=reason(exc)))
        else:
            self._is_initialised = result.committed
            if result.status >= ERROR_THRESHOLD:
                self._tell(Line("failed", result.tx_id, "init", result.message))

    async def _collections(self) -> CollectionConfigPackage:
        path = self.project.collections
        if path is None:
            return CollectionConfigPackage()
        try:
            return read_collections(await trio.Path(path).read_bytes())
        except OSError as exc:
            raise InvalidDefinition(self.project.name, f"{path}: {exc.strerror}") from exc

    async def _follow_blocks(self) -> None:
        async for block in self._ledger.blocks(self._told):
            self._narration.on_block(block)
            self._told += 1
            self._more_told.set()
            self._more_told = trio.Event()


def reason(exc: PeerError) -> str:
    """Return why something failed; of a launch without the output, which has been told."""
    if not isinstance(exc, LaunchError):
        return str(exc)
    ended = exc.evidence.exit if exc.evidence else ""
    return f"{exc.reason} ({ended})" if ended not in exc.reason else exc.reason


def _is_own(key: str) -> bool:
    """Tell whether the chaincode may have written a key: the peer's begin like no other."""
    return not key.startswith("\x00\U0010ffff")
