"""Open a peer, and close it.

Room:      peer.app   (imports ground, and assembly when a peer opens; imported by cli and `peer`)
Loop:      Trio
Lifetime:  peer
Fabric:    internal/peer/node/start.go (release-2.5)
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, ParamSpec

import trio

from peer.config import PeerConfig
from peer.ground import Ground, Hooks, OnOutput, open_ground
from peer.importing import importing

if TYPE_CHECKING:
    from peer.chaincode.handler import Trace
    from peer.chaincode.registry import OnStage
    from peer.library import Peer

log = logging.getLogger("peer")

_P = ParamSpec("_P")


@asynccontextmanager
async def open_peer(
    config: PeerConfig | None = None,
    *,
    trace: Trace | None = None,
    on_stage: OnStage | None = None,
    on_output: OnOutput | None = None,
    is_debugged: Callable[[], bool] = lambda: False,
) -> AsyncIterator[Peer]:
    """Open a peer and hold it.

        async with open_peer() as peer:
            await peer.install("examples/asset_transfer", name="assets")
            result = await peer.query("mychannel", "assets", ["GetAllAssets"])

    The channel ``mychannel`` is joined already. Leaving the context, by whatever way, stops every
    chaincode and leaves no process, socket, file or thread behind.

    Args:
        config: `PeerConfig()` if None: chaincodes as processes, data in a temporary directory.
        trace: sees every message of every chaincode stream.
        on_stage: hears of every stage of every launch.
        on_output: sees every line that a chaincode, or a build of one, writes.
        is_debugged: is asked when the time of an execution is over; while a debugger is at the
            chaincode it gets as much again.

    What one of the first three raises is logged, the first time, and changes nothing.

    Raises:
        ConfigError: development mode has TLS on or an address that cannot be listened on, nobody
            can dial ``peer.chaincodeAddress``, the place for temporary files cannot be used, or
            what CouchDB or tracing needs is not installed.
        LedgerError: the data directory cannot be used, or CouchDB where it is configured.
        RuntimeNotUsable: the chosen runtime is not there.

    Cancellation: closes the peer.
    """
    hooks = Hooks(
        trace and _guarded("trace", trace),
        on_stage and _guarded("on_stage", on_stage),
        on_output and _guarded("on_output", on_output),
        is_debugged,
    )
    failure: BaseException | None = None
    async with AsyncExitStack() as stack:
        try:
            ground = await open_ground(config or PeerConfig(), hooks, stack)
            assemble = await trio.to_thread.run_sync(_import_assembly)
            yield await assemble(ground, stack)
        except (Exception, BaseExceptionGroup, KeyboardInterrupt, SystemExit) as exc:
            failure = exc  # raised below, outside the nurseries that would wrap it
    if failure is not None:
        raise failure


def _import_assembly() -> Callable[[Ground, AsyncExitStack], Awaitable[Peer]]:
    """Import most of the peer, while the processes of the runtime start on another CPU."""
    with importing():
        from peer.assembly import assemble
    return assemble


def _guarded(name: str, callback: Callable[_P, None]) -> Callable[_P, None]:
    """Return a callback that does not raise, as it is called in the midst of a launch or stream."""
    failed = False

    def call(*args: _P.args, **kwargs: _P.kwargs) -> None:
        nonlocal failed
        try:
            callback(*args, **kwargs)
        except Exception:
            if not failed:
                log.exception("%s, as given to open_peer, failed; not logged again", name)
            failed = True

    return call
