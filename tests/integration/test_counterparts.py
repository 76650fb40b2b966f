"""The behaviour script on our peer, with every chaincode library in every mode it has.

Room:      tests.integration   (imports peer, runtimes.process through it)
Loop:      Trio, in the thread of the shared peer
Lifetime:  one peer for each library and mode
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from subprocess import DEVNULL

import pytest
import trio

from peer import Peer, PeerConfig, open_peer
from peer.config import ChaincodeConfig
from peer.errors import ChaincodeError, LaunchError
from peer.library import Result as PeerResult
from tests.chaincodes.prepare import Counterpart, counterpart
from tests.integration.behaviour import cases_for
from tests.integration.driver import Case, NoResponse, Result, Site
from tests.integration.peer_thread import Held, held

CHANNELS = ("mychannel", "otherchannel")
COLLECTION = "secrets"
MARKS = {
    "golang": [pytest.mark.golang],
    "node": [pytest.mark.node],
    "official_python": [pytest.mark.official_python],
}
MODES = (
    ("ours", "client"),
    ("ours", "service"),
    ("ours_sync", "client"),
    ("golang", "client"),
    ("golang", "service"),
    ("node", "client"),
    ("node", "service"),
    ("official_python", "service"),
)


class PeerDriver:
    """Calls a peer of this process."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    async def invoke(
        self,
        channel: str,
        chaincode: str,
        args: Sequence[bytes],
        *,
        transient: Mapping[str, bytes] | None = None,
        is_init: bool = False,
    ) -> Result:
        """Execute and commit; a chaincode that cannot be launched is a failed test."""
        return await self._result(
            self._peer.invoke(channel, chaincode, args, transient=transient, is_init=is_init)
        )

    async def query(
        self,
        channel: str,
        chaincode: str,
        args: Sequence[bytes],
        *,
        transient: Mapping[str, bytes] | None = None,
    ) -> Result:
        """Execute only."""
        return await self._result(self._peer.query(channel, chaincode, args, transient=transient))

    async def invoke_all(
        self, channel: str, chaincode: str, calls: Sequence[Sequence[bytes]]
    ) -> list[Result]:
        """Execute all calls at the same time."""
        results: dict[int, Result] = {}

        async def one(index: int, args: Sequence[bytes]) -> None:
            results[index] = await self.invoke(channel, chaincode, args)

        async with trio.open_nursery() as nursery:
            for index, args in enumerate(calls):
                nursery.start_soon(one, index, args)
        return [results[index] for index in range(len(calls))]

    async def _result(self, call: object) -> Result:
        try:
            result: PeerResult = await call  # type: ignore[misc]  # a coroutine of Peer
        except LaunchError:
            raise
        except ChaincodeError as exc:
            raise NoResponse(str(exc)) from exc
        event = result.event
        return Result(
            result.status,
            result.message,
            result.payload,
            (event.event_name, event.payload) if event is not None else None,
            result.tx_id,
        )


@asynccontextmanager
async def site(made: Counterpart, mode: str, scratch: Path) -> AsyncIterator[Site]:
    """Open a peer with the chaincode installed, as process or as service."""
    async with AsyncExitStack() as stack:
        # Some libraries leave an exception of the chaincode unanswered: that ends at this limit.
        limits = ChaincodeConfig(execute_timeout_s=5.0, startup_timeout_s=30.0)
        peer = await stack.enter_async_context(open_peer(PeerConfig(chaincode=limits)))
        await peer.join_channel(CHANNELS[1])
        services = await stack.enter_async_context(trio.open_nursery())
        stack.callback(services.cancel_scope.cancel)
        install = partial(_install, peer, services, made, mode, scratch)
        await install("chaincode", CHANNELS[:1])
        await install("callee", CHANNELS)
        await install("uninitialised", CHANNELS[:1], init_required=True)
        yield Site(
            driver=PeerDriver(peer),
            channel=CHANNELS[0],
            other_channel=CHANNELS[1],
            chaincode="chaincode",
            callee="callee",
            uninitialised="uninitialised",
            collection=COLLECTION,
            creator=peer.creator,
        )


async def _install(
    peer: Peer,
    services: trio.Nursery,
    made: Counterpart,
    mode: str,
    scratch: Path,
    name: str,
    channels: Sequence[str],
    *,
    init_required: bool = False,
) -> None:
    source = made.path
    if mode == "service":
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        source = scratch / name
        source.mkdir()
        (source / "connection.json").write_text(json.dumps({"address": address}))
    package = await peer.install(
        source,
        name=name,
        channels=channels,
        init_required=init_required,
        collections=[COLLECTION],
    )
    if mode == "service":
        services.start_soon(_keep_service, made, package.ccid, address)


async def _keep_service(made: Counterpart, ccid: str, address: str) -> None:
    """Run a service and, as whoever operates it would, start it again when it dies."""
    env = os.environ | {"CORE_CHAINCODE_ID_NAME": ccid, "CHAINCODE_SERVER_ADDRESS": address}
    while True:
        process = await trio.lowlevel.open_process(
            made.command, cwd=made.path, env=env, stdout=DEVNULL, stderr=DEVNULL
        )
        try:
            await process.wait()
        finally:
            with trio.CancelScope(shield=True):
                process.kill()
                await process.wait()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Pair every library and mode with the cases that concern the library."""
    pairs = [
        pytest.param(
            mode,
            *each.values,
            id=f"{'-'.join(mode)}-{each.id}",
            marks=[*MARKS.get(mode[0], []), *each.marks],
        )
        for mode in MODES
        for each in cases_for(mode[0])
    ]
    metafunc.parametrize(("shared", "case"), pairs, indirect=["shared"], scope="module")


@pytest.fixture(scope="module")
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Held[Site]]:
    library, mode = request.param
    made = counterpart(library)
    scratch = tmp_path_factory.mktemp("services")
    with held(partial(site, made, mode, scratch)) as opened:
        yield opened


def test_behaviour(shared: Held[Site], case: Case) -> None:
    shared.run(case.run, shared.value)
