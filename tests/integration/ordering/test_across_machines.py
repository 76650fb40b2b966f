"""Two peers and an orderer as three programs, over gRPC with TLS: what a kill may cost.

Nothing here waits for a time to pass: a peer or an orderer is killed, and started again, when so
many transactions are acknowledged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import trio

from fabric_protos.codec import decode
from fabric_protos.common import Block, Envelope, Payload
from fabric_protos.stream import ChaincodeInput, ChannelHeader
from peer.channel.network import Network
from peer.client.calls import Client
from peer.endorser.proposal import prepare_args
from peer.errors import BroadcastRefused, CallFailed, CommitTimeout, PeerError
from peer.ledger.api import ValidationCode
from peer.ledger.blocks import commit_hash_of, envelopes_of, flags_of, header_of
from peer.remote import Connection
from peer.rpc.loop import open_loop
from tests.integration.ordering.programs import (
    ASSETS,
    CHANNEL,
    SOON_S,
    Program,
    User,
    administrator,
    chain_of,
    deploy,
    dialled,
    height_of,
    join,
    make_network,
    orderer_program,
    peer_program,
    running,
    user,
)

TYPED = CallFailed | BroadcastRefused | CommitTimeout
"""What a client may hear while a program is down."""
PAUSE_S = 0.1
"""Of a client between an attempt that failed and the next."""


@dataclass
class Crowd:
    """Clients that submit, each one transaction after the other, until all have done so many.

    Attributes:
        acknowledged: ids of the transactions that a peer said were valid.
        failures: what else came of an attempt.
    """

    share: int
    acknowledged: list[str] = field(default_factory=list)
    failures: list[PeerError] = field(default_factory=list)
    _changed: trio.Event = field(default_factory=trio.Event)
    _keys: count[int] = field(default_factory=count)

    async def submit(self, client: Client) -> None:
        """Be one client: go on after every failure, with another transaction."""
        done = 0
        while done < self.share:
            key = f"key{next(self._keys)}"
            payload = ChaincodeInput(args=prepare_args(["put", key, key]))
            try:
                result = await client.submit(CHANNEL, ASSETS, payload)
            except PeerError as exc:
                self.failures.append(exc)
                self._tell()
                await trio.sleep(PAUSE_S)
                continue
            assert result.validation_code is ValidationCode.VALID, result
            self.acknowledged.append(result.tx_id)
            done += 1
            self._tell()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()

    async def more(self, number: int) -> None:
        """Wait for so many more acknowledgements."""
        goal = len(self.acknowledged) + number
        await self.until(lambda: len(self.acknowledged) >= goal)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


@dataclass
class Scene:
    """Three programs, and connections to them."""

    made: Network
    orderer: Program
    peers: list[Program]
    to_orderer: Connection
    to_peers: list[Connection]

    @property
    def user(self) -> User:
        return user(self.made)

    async def run(self, crowd: Crowd, clients: int, upset: Callable[[], Awaitable[None]]) -> None:
        """Let clients submit to both peers in turn while something goes wrong."""
        who = self.user
        async with trio.open_nursery() as nursery:
            for number in range(clients):
                peer = self.to_peers[number % len(self.to_peers)]
                nursery.start_soon(crowd.submit, who.client(self.to_orderer, peer))
            await upset()

    async def check(self, crowd: Crowd) -> None:
        """Compare the peers block by block, and look for every acknowledged transaction."""
        newest = 0
        for connection in self.to_peers:
            newest = max(newest, await height_of(self.user, connection))
        first, second = [
            await chain_of(self.user, connection, newest) for connection in self.to_peers
        ]
        assert [evidence(block) for block in first] == [evidence(block) for block in second]
        valid, seen = Counter[str](), Counter[str]()
        for block in first:
            for envelope, flag in zip(envelopes_of(block), flags_of(block), strict=True):
                tx_id = tx_id_of(envelope)
                seen[tx_id] += 1
                valid[tx_id] += flag == ValidationCode.VALID
        assert set(crowd.acknowledged) <= {tx_id for tx_id, times in valid.items() if times}
        assert max(seen.values()) == 1  # no duplicates, valid or not
        assert len(crowd.acknowledged) == len(set(crowd.acknowledged))


def evidence(block: Block) -> tuple[bytes, bytes, bytes]:
    """Return what must be the same on every peer."""
    header = header_of(block)
    hashed = commit_hash_of(block)
    assert hashed or header.number == 0
    return header.data_hash + header.previous_hash, flags_of(block), hashed


def tx_id_of(data: bytes) -> str:
    header = decode(Payload, decode(Envelope, data).payload).header
    assert header is not None
    return ChannelHeader.decode(header.channel_header).tx_id


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Scene]:
    """Start an orderer and two peers, join them, and deploy the example."""
    made = make_network(directory / "network", peers=2)
    admin, [organisation] = administrator(made), made.organisations
    async with AsyncExitStack() as stack:
        stack.enter_context(trio.fail_after(SOON_S))
        await stack.enter_async_context(open_loop())
        orderer = await stack.enter_async_context(running(orderer_program(made, directory)))
        peers = [
            await stack.enter_async_context(running(peer_program(made, index, directory)))
            for index in (0, 1)
        ]
        to_orderer = await stack.enter_async_context(
            dialled(admin.endpoint(orderer.address, made.orderer.nodes[0]))
        )
        to_peers = [
            await stack.enter_async_context(dialled(admin.endpoint(peer.address, node)))
            for peer, node in zip(peers, organisation.nodes, strict=True)
        ]
        for peer in to_peers:
            await join(admin, peer, made.genesis_block())
        await deploy(admin, to_peers, to_orderer)
        yield Scene(made, orderer, peers, to_orderer, to_peers)


async def test_a_peer_killed_while_64_clients_submit_catches_up(tmp_path: Path) -> None:
    async with opened(tmp_path) as scene:
        crowd = Crowd(share=6)

        async def kill_and_start() -> None:
            await crowd.more(64)
            await scene.peers[1].kill()
            await crowd.until(lambda: bool(crowd.failures))
            await crowd.more(64)  # the other peer goes on
            await scene.peers[1].start()

        await scene.run(crowd, 64, kill_and_start)
        assert len(crowd.acknowledged) == 64 * 6
        assert all(isinstance(failure, TYPED) for failure in crowd.failures)
        await scene.check(crowd)
        assert await scene.peers[1].stop() == 0


async def test_an_orderer_killed_and_started_again_goes_on(tmp_path: Path) -> None:
    async with opened(tmp_path) as scene:
        crowd = Crowd(share=6)

        async def kill_and_start() -> None:
            await crowd.more(16)
            await scene.orderer.kill()
            await crowd.until(lambda: bool(crowd.failures))
            await scene.orderer.start()

        await scene.run(crowd, 16, kill_and_start)
        assert len(crowd.acknowledged) == 16 * 6
        assert all(isinstance(failure, TYPED) for failure in crowd.failures)
        await scene.check(crowd)
        for peer in scene.peers:
            assert peer.log.read_text().count("channel mychannel: follows localhost:") >= 2
        assert await scene.orderer.stop() == 0
