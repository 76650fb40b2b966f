"""Which certificate a configured peer shows to orderers, and where it thinks they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from peer import PeerConfig
from peer.channel.bundle import Bundle
from peer.channel.configblock import bundle_of
from peer.channel.network import Network, NetworkDescription, create
from peer.config.model import AddressOverride
from peer.errors import ConfigError
from peer.msp.identity import SigningIdentity
from peer.outgoing import remote_ordering
from peer.remote import ClientTls

ORDERER = "localhost:7050"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return create(tmp_path_factory.mktemp("network") / "net", NetworkDescription())


@pytest.fixture(scope="module")
def bundle(made: Network) -> Bundle:
    return bundle_of("mychannel", made.genesis_block())


def configured(made: Network, *, tls: bool = True, client: bool = False) -> PeerConfig:
    """Return the configuration of a peer that serves with TLS, perhaps with another to call."""
    config = PeerConfig()
    node, user = made.organisations[0].nodes[0].tls, made.organisations[0].users[0].tls
    peer = replace(
        config.peer,
        tls_enabled=tls,
        tls_certificate=str(node / "server.crt"),
        tls_key=str(node / "server.key"),
    )
    if client:
        ours = replace(
            config.client,
            certificate=str(user / "client.crt"),
            private_key=str(user / "client.key"),
        )
        config = replace(config, client=ours)
    return replace(config, peer=peer)


async def shown(
    config: PeerConfig, bundle: Bundle, nursery: trio.Nursery
) -> tuple[str, ClientTls | None]:
    """Return where the one orderer of a channel is dialled, and with what."""
    identity = SigningIdentity.self_signed("Org1MSP")
    ordering = await remote_ordering(config, identity, nursery)
    [named] = ordering.named(bundle)
    return named.endpoint.address, named.endpoint.tls


@pytest.mark.parametrize("client", [False, True])
async def test_the_certificate_for_calls_comes_before_the_one_for_serving(
    made: Network, bundle: Bundle, nursery: trio.Nursery, client: bool
) -> None:
    config = configured(made, client=client)
    address, tls = await shown(config, bundle, nursery)
    node, user = made.organisations[0].nodes[0].tls, made.organisations[0].users[0].tls
    certificate = user / "client.crt" if client else node / "server.crt"
    key = user / "client.key" if client else node / "server.key"
    roots = (made.orderer.nodes[0].tls / "ca.crt").read_bytes()
    assert address == ORDERER
    assert tls == ClientTls(roots, certificate.read_bytes(), key.read_bytes())


async def test_without_tls_nothing_is_shown(
    made: Network, bundle: Bundle, nursery: trio.Nursery
) -> None:
    assert await shown(configured(made, tls=False), bundle, nursery) == (ORDERER, None)


async def test_an_override_leads_elsewhere(
    made: Network, bundle: Bundle, nursery: trio.Nursery, tmp_path: Path
) -> None:
    roots = tmp_path / "roots.pem"
    roots.write_bytes(b"roots")
    config = configured(made)
    override = AddressOverride(channel_address=ORDERER, address="real:1", roots=str(roots))
    config = replace(config, delivery=replace(config.delivery, address_overrides=(override,)))
    address, tls = await shown(config, bundle, nursery)
    assert address == "real:1"
    assert tls is not None
    assert tls.root == b"roots"


async def test_every_file_that_is_missing_is_told(
    made: Network, bundle: Bundle, nursery: trio.Nursery
) -> None:
    config = configured(made)
    gone = replace(config.client, certificate="/gone.crt", private_key="/gone.key")
    override = AddressOverride(channel_address=ORDERER, address=ORDERER, roots="/gone.pem")
    delivery = replace(config.delivery, address_overrides=(override,))
    with pytest.raises(ConfigError) as caught:
        await shown(replace(config, client=gone, delivery=delivery), bundle, nursery)
    keys = [problem.partition(":")[0] for problem in caught.value.problems]
    assert keys == [
        "peer.tls.clientCert.file",
        "peer.tls.clientKey.file",
        "peer.deliveryclient.addressOverrides",
    ]
