"""What ``demo`` does: a chaincode's life, as it happens.

Room:      peer.cli
Loop:      starts Trio
"""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

from fabric_protos.stream import ChaincodeId, ChaincodeMessage, ChaincodeMessageType
from peer import logs
from peer.app import open_peer
from peer.cli.progress import Progress
from peer.config import PeerConfig
from peer.ground import DEFAULT_CHANNEL

if TYPE_CHECKING:
    from peer.library import Peer, Result

NAME = "assets"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call, and how it is announced."""

    title: str
    args: Sequence[str]
    is_init: bool = False
    is_query: bool = False


STEPS = (
    Step(title="Initialise it: INIT -> COMPLETED", args=["InitLedger"], is_init=True),
    Step(title="Create three assets", args=["InitLedger"]),
    Step(title="Put a value", args=["put", "greeting", "hello"]),
    Step(title="Get it", args=["get", "greeting"], is_query=True),
    Step(title="Read a range", args=["GetAssetsByRange", "asset1", "asset3"], is_query=True),
    Step(title="Hand an asset over, with an event", args=["TransferAsset", "asset1", "Ada"]),
    Step(title="Ask for what does not exist", args=["ReadAsset", "asset9"], is_query=True),
)


class Narrator:
    """Prints what happens, with the time since the beginning.

    Args:
        reading: cancelled once nobody reads; the peer, in whose midst that shows, ends in order.
    """

    def __init__(self, progress: Progress, reading: trio.CancelScope) -> None:
        self._progress = progress
        self._reading = reading
        self._began = time.perf_counter()

    def title(self, text: str) -> None:
        """Announce a part."""
        self._print(click.style(f"\n{text}", bold=True))

    def line(self, what: str, detail: str = "", *, color: str | None = None) -> None:
        """Print one event."""
        elapsed_ms = (time.perf_counter() - self._began) * 1e3
        self._print(f"{elapsed_ms:8.1f} ms  {click.style(what, fg=color)}  {detail}".rstrip())

    def on_stage(self, ccid: str, stage: str, elapsed_s: float) -> None:
        """Print a stage of a launch."""
        self._progress.on_stage(ccid, stage, elapsed_s)
        self.line(f"launch: {stage}", f"{elapsed_s * 1e3:.1f} ms after its start", color="cyan")

    def on_message(self, ccid: str, from_chaincode: bool, message: ChaincodeMessage) -> None:
        """Print a message of the stream."""
        if message.type == ChaincodeMessageType.REGISTER:
            ccid = ChaincodeId.decode(message.payload).name
        if ccid.endswith(".syscc"):
            return
        name = ChaincodeMessageType(message.type).name
        arrow = "chaincode -> peer" if from_chaincode else "peer -> chaincode"
        size = f"{len(message.payload)} bytes" if message.payload else ""
        color = "red" if message.type == ChaincodeMessageType.ERROR else None
        self.line(arrow, f"{name:<20} {size}".rstrip(), color=color)

    def result(self, result: Result) -> None:
        """Print what a call came to."""
        good = result.status < 400
        text = result.payload.decode(errors="replace") if good else result.message
        outcome = f"status {result.status}" + (", committed" if result.committed else "")
        self.line(outcome, text, color="green" if good else "yellow")
        if result.event is not None and result.committed:
            self.line(f"event {result.event.event_name}", result.event.payload.decode())

    def _print(self, text: str) -> None:
        self._progress.hide()
        try:
            click.echo(text)
        except BrokenPipeError:
            self._reading.cancel()


def show(runtime: str | None, chaincode: Path, *, verbose: bool) -> None:
    """Show a chaincode's life; `verbose` shows the log, too."""
    config = PeerConfig.load(overrides={"vm.runtime": runtime} if runtime else None)
    # Always on a ledger of its own: it initialises a chaincode and leaves nothing.
    config = replace(config, peer=replace(config.peer, file_system_path=""))
    progress = Progress(sys.stderr)
    logs.configure("info" if verbose else "error", "text", stream=progress)
    trio.run(_run, config, chaincode, progress)


async def _run(config: PeerConfig, path: Path, progress: Progress) -> None:
    async with progress.showing():
        with trio.CancelScope() as reading:
            await _show(config, path, progress, Narrator(progress, reading))
        if reading.cancel_called:
            raise BrokenPipeError(errno.EPIPE, "nobody reads")  # click ends quietly with 1


async def _show(config: PeerConfig, path: Path, progress: Progress, narrator: Narrator) -> None:
    narrator.title(f"Open a peer; chaincodes run as: {config.vm.runtime}")
    async with open_peer(
        config,
        trace=narrator.on_message,
        on_stage=narrator.on_stage,
        on_output=progress.on_output,
    ) as opened:
        with progress.work(NAME, "install"):
            package = await opened.install(path, name=NAME, init_required=True)
        narrator.line("installed", f"{package.type} chaincode as {package.ccid[:34]}...")
        for step in STEPS:
            narrator.title(f"{step.title}: {' '.join(step.args)}")
            narrator.result(await _call(opened, step))
        narrator.title("Close the peer")
    narrator.line("closed", "no process, socket or file is left")


async def _call(opened: Peer, step: Step) -> Result:
    if step.is_query:
        return await opened.query(DEFAULT_CHANNEL, NAME, step.args)
    return await opened.invoke(DEFAULT_CHANNEL, NAME, step.args, is_init=step.is_init)
