"""What a peer stands on: its directories, an asyncio loop for gRPC, the runtime of its chaincodes.

Room:      peer.ground   (imports config, runtimes and little else; used by app, parts,
           assembly and cli)
Loop:      Trio, with an asyncio loop inside for gRPC
Lifetime:  peer
Fabric:    internal/peer/node/start.go (release-2.5)

It opens before the rest is imported: what the runtime starts, starts on another CPU meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from peer import logs
from peer.config import PeerConfig
from peer.directories import private_directory, temporary_directory
from peer.errors import RuntimeNotUsable
from peer.rpc.loop import open_loop
from runtimes import loader, naming
from runtimes.api import RuntimeBackend, RuntimeFailure, RuntimeSettings

if TYPE_CHECKING:
    from peer.chaincode.handler import Trace
    from peer.chaincode.registry import OnStage

DEFAULT_CHANNEL = "mychannel"
"""What a network that the peer makes begins with."""

OnOutput = Callable[[str, str], None]
"""Called with (ccid, line) for every line that a chaincode, or a build of one, writes."""


class Hooks(NamedTuple):
    """What the caller of `open_peer` wants to be told, and asked."""

    trace: Trace | None
    on_stage: OnStage | None
    on_output: OnOutput | None
    is_debugged: Callable[[], bool]


class Ground(NamedTuple):
    """What is there when the rest of a peer is put together.

    Attributes:
        run_dir: a temporary directory, for sockets.
        home: the data directory.
    """

    config: PeerConfig
    hooks: Hooks
    run_dir: Path
    home: Path
    backend: RuntimeBackend


async def open_ground(config: PeerConfig, hooks: Hooks, stack: AsyncExitStack) -> Ground:
    """Open the loop and the configured runtime.

    Raises:
        ConfigError: the place for temporary files cannot be used.
        LedgerError: the data directory cannot be used.
        RuntimeNotUsable: the runtime is not there.
    """
    run_dir = stack.enter_context(temporary_directory())
    home = private_directory(Path(config.peer.file_system_path or run_dir / "data"))
    await stack.enter_async_context(open_loop())
    name, options = config.vm.runtime, config.vm.options
    backend = await open_runtime(name, options, config, hooks, home, stack)
    return Ground(config=config, hooks=hooks, run_dir=run_dir, home=home, backend=backend)


async def open_runtime(
    name: str,
    options: Mapping[str, object],
    config: PeerConfig,
    hooks: Hooks,
    home: Path,
    stack: AsyncExitStack,
) -> RuntimeBackend:
    """Open a backend by its name.

    Raises:
        RuntimeNotUsable: there is none of that name, or what it needs is not there.
    """
    settings = RuntimeSettings(
        network_id=config.peer.network_id,
        peer_id=config.peer.id,
        state_dir=private_directory(home / "runtimes" / name),
        options=options,
        on_output=partial(_log_output, config, hooks.on_output),
    )
    try:
        return await stack.enter_async_context(loader.load(name)(settings))
    except RuntimeFailure as exc:
        raise RuntimeNotUsable(f"vm.runtime {name}: {exc}") from exc


def _log_output(config: PeerConfig, also: OnOutput | None, ccid: str, line: str) -> None:
    """Log a line that a chaincode wrote, under its container's name as Fabric does."""
    name = naming.container_name(ccid, network_id=config.peer.network_id, peer_id=config.peer.id)
    with logs.bind(ccid=ccid):
        logs.chaincode_logger(name).info("%s", line)
    if also is not None:
        also(ccid, line)
