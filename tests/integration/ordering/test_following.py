"""A peer in this program and an orderer in another: what the peer makes of orderers in trouble."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from fabric_protos.codec import decode, encode
from fabric_protos.common import Envelope
from fabric_protos.gateway import SubmitRequest
from peer import Peer, PeerConfig, open_peer
from peer.channel.network import Network
from peer.client.remote import RemoteOrderer
from peer.config.model import AddressOverride
from peer.errors import CallFailed, Code
from peer.ledger.blocks import envelopes_of
from peer.remote import Connection, Endpoint
from tests.integration.ordering.programs import (
    CHANNEL,
    SOON_S,
    Program,
    User,
    dialled,
    free_port,
    make_network,
    name_orderers,
    orderer_program,
    running,
    something,
    user,
)

SUBMIT = "/gateway.Gateway/Submit"


def config_of(made: Network, directory: Path) -> PeerConfig:
    """Return the configuration of a peer with TLS, which shows its certificate to orderers."""
    [organisation] = made.organisations
    node = organisation.nodes[0]
    config = PeerConfig()
    return replace(
        config,
        peer=replace(
            config.peer,
            local_msp_id=organisation.msp_id,
            msp_config_path=str(node.msp),
            file_system_path=str(directory / "peer"),
            listen_address="localhost:0",
            tls_enabled=True,
            tls_certificate=str(node.tls / "server.crt"),
            tls_key=str(node.tls / "server.key"),
        ),
        delivery=replace(config.delivery, longest_pause_s=0.5),
    )


@asynccontextmanager
async def opened(config: PeerConfig, made: Network) -> AsyncIterator[Peer]:
    """Open the peer, which joins the channel if it has not."""
    with trio.fail_after(SOON_S):
        async with open_peer(config) as peer:
            if not peer.channels:
                await peer.join(made.genesis_block())
            yield peer


class Listener(logging.Handler):
    """Hears what the ordering room logs."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._lines: list[str] = []
        self._heard = trio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())
        self._heard.set()
        self._heard = trio.Event()

    async def hear(self, *parts: str) -> str:
        """Wait for a line with these parts, and return it; earlier ones count, too."""
        while True:
            for line in self._lines:
                if all(part in line for part in parts):
                    return line
            await self._heard.wait()


@pytest.fixture
def log() -> Iterator[Listener]:
    logger, listener = logging.getLogger("peer.ordering"), Listener()
    level = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.DEBUG)
    yield listener
    logger.removeHandler(listener)
    logger.setLevel(level)


@pytest.fixture
def made(tmp_path: Path) -> Network:
    return make_network(tmp_path / "network")


@contextmanager
def nothing_followed(peer: Peer) -> Iterator[None]:
    """Hold that a peer knows itself without an orderer, and says so everywhere."""
    state = peer.ordering(CHANNEL)
    assert (state.source, bool(state.trouble)) == ("", True)
    assert peer.metrics.value("triopeer_ordering_up", channel=CHANNEL) == 0
    yield
    assert peer.ledger(CHANNEL).height == 1


async def submitted(peer: Connection, envelope: bytes) -> None:
    """Hand an envelope to a peer's Gateway."""
    request = SubmitRequest(
        transaction_id="tx",
        channel_id=CHANNEL,
        prepared_transaction=decode(Envelope, envelope),
    )
    await peer.unary(SUBMIT, encode(request))


async def test_an_orderer_that_comes_later_is_followed_and_takes_transactions(
    tmp_path: Path, made: Network, log: Listener
) -> None:
    config, who = config_of(made, tmp_path), user(made)
    node = made.organisations[0].nodes[0]
    program = orderer_program(made, tmp_path)
    try:
        async with opened(config, made) as peer:
            await log.hear("no blocks from localhost:", "Unavailable")
            with nothing_followed(peer):
                pass
            await program.start()
            await log.hear("follows", "from block 1 on")
            state = peer.ordering(CHANNEL)
            assert (state.source, state.trouble) == (made.orderer.nodes[0].address, "")
            assert peer.metrics.value("triopeer_ordering_up", channel=CHANNEL) == 1
            async with dialled(who.endpoint(peer.address, node)) as gateway:
                envelope = something(who)
                await submitted(gateway, envelope)
                await peer.ledger(CHANNEL).reached(2)
                block = await peer.ledger(CHANNEL).block_by_number(1)
                assert block is not None
                assert envelopes_of(block) == [envelope]
                await refusals(gateway, who, program)
        await program.start()
        async with opened(config, made) as peer:  # joined before: followed from the start
            async with dialled(who.endpoint(peer.address, node)) as gateway:
                await submitted(gateway, something(who))
            await peer.ledger(CHANNEL).reached(3)
    finally:
        await program.kill()


async def refusals(gateway: Connection, who: User, orderer: Program) -> None:
    """What the orderer refuses is final; an orderer that is gone is told by name."""
    good = decode(Envelope, something(who))
    with pytest.raises(CallFailed) as caught:
        await submitted(gateway, encode(Envelope(payload=good.payload, signature=b"none")))
    assert caught.value.code is Code.ABORTED
    assert "status=FORBIDDEN" in caught.value.message
    await orderer.kill()
    with pytest.raises(CallFailed) as caught:
        await submitted(gateway, encode(good))
    assert caught.value.code is Code.UNAVAILABLE
    [detail] = caught.value.details
    assert (detail.address, detail.msp_id) == (who.made.orderer.nodes[0].address, "OrdererMSP")


async def test_an_orderer_of_another_authority_is_not_believed(
    tmp_path: Path, made: Network, log: Listener
) -> None:
    config = config_of(made, tmp_path)
    address = made.orderer.nodes[0].address
    stranger = made.organisations[0].nodes[0].tls / "ca.crt"
    override = AddressOverride(channel_address=address, address=address, roots=str(stranger))
    delivery = replace(config.delivery, address_overrides=(override,))
    async with (
        running(orderer_program(made, tmp_path)),
        opened(replace(config, delivery=delivery), made) as peer,
    ):
        await log.hear(f"no blocks from {address}", "CERTIFICATE_VERIFY_FAILED")
        with nothing_followed(peer):
            pass


async def test_an_orderer_that_wants_a_certificate_gets_none_from_a_peer_without(
    tmp_path: Path, made: Network, log: Listener
) -> None:
    config = config_of(made, tmp_path)
    # With TLS a peer has a certificate to show; here it listens nowhere and has none.
    node = replace(config.peer, tls_certificate="", tls_key="", listen_address="")
    async with (
        running(orderer_program(made, tmp_path)) as program,
        opened(replace(config, peer=node), made) as peer,
    ):
        await log.hear(f"no blocks from {program.address}", "Unavailable")
        with nothing_followed(peer):
            pass


async def test_a_forged_block_is_not_committed_and_another_orderer_is_asked(
    tmp_path: Path, made: Network, log: Listener
) -> None:
    honest, forging = (f"localhost:{free_port()}" for _ in range(2))
    name_orderers(made, honest, forging)
    config = config_of(made, tmp_path)
    config = replace(config, peer=replace(config.peer, tls_enabled=False, listen_address=""))
    forger = Program(
        args=[made.directory, forging],
        env={},
        log=tmp_path / "forger.log",
        module="tests.integration.ordering.forger",
    )
    orderer = Program(
        args=[
            "orderer", "start", "--network", made.directory, "--data", tmp_path / "orderer",
            "--listen", honest,
        ],
        env={},
        log=tmp_path / "orderer.log",
    )  # fmt: skip
    async with running(forger), opened(config, made) as peer:
        reason = await log.hear(f"no blocks from {forging}", "block 1 refused")
        assert "policy /Channel/Orderer/BlockValidation is not satisfied" in reason
        await log.hear(f"no blocks from {honest}", "Unavailable")
        assert peer.ledger(CHANNEL).height == 1
        async with running(orderer):
            await log.hear(f"follows {honest} from block 1 on")
            envelope = something(user(made))
            async with dialled(Endpoint(honest)) as connection:
                await RemoteOrderer(connection).broadcast(envelope)
            await peer.ledger(CHANNEL).reached(2)
        block = await peer.ledger(CHANNEL).block_by_number(1)
        assert block is not None
        assert envelopes_of(block) == [envelope]
