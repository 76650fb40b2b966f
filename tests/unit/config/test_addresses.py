"""The address a chaincode is told to dial, and where the peer listens for it."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import replace

import pytest

from peer.config import PeerConfig, chaincode_host, chaincode_listen_address, peer_address
from peer.config.addresses import local_ip
from peer.errors import ConfigError


def configured(*, mode: str = "net", **peer: object) -> PeerConfig:
    config = PeerConfig()
    return replace(
        config,
        peer=replace(config.peer, **peer),  # type: ignore[arg-type]  # names come from the tests
        chaincode=replace(config.chaincode, mode=mode),
    )


def here() -> str:
    return "10.1.2.3"


def nowhere() -> str:
    return ""


@pytest.mark.parametrize(
    ("address", "host"),
    [("cc.example.com:9000", "cc.example.com"), ("[2001:db8::1]:7052", "2001:db8::1"), ("", "")],
)
def test_what_a_chaincode_elsewhere_dials(address: str, host: str) -> None:
    assert chaincode_host(configured(chaincode_address=address)) == host


@pytest.mark.parametrize("address", ["0.0.0.0:7052", "[::]:7052", ":7052"])
def test_an_address_nobody_can_dial(address: str) -> None:
    expected = "invalid endpoint for chaincode to connect: peer.chaincodeAddress is "
    with pytest.raises(ConfigError, match=expected + re.escape(address)):
        chaincode_host(configured(chaincode_address=address))
    assert chaincode_host(configured(mode="dev", chaincode_address=address)) == ""


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ({"chaincode_listen_address": "0.0.0.0:9999"}, "0.0.0.0:9999"),
        ({"address": "peer0.org1:7051"}, "peer0.org1:7052"),
        ({"address": "0.0.0.0:7051"}, "10.1.2.3:7052"),
    ],
)
def test_where_the_peer_listens_for_chaincodes(peer: dict[str, object], address: str) -> None:
    assert chaincode_listen_address(configured(**peer), detect=here) == address


def test_where_others_reach_the_peer() -> None:
    assert peer_address(configured(address="a:1"), detect=nowhere) == "a:1"
    assert peer_address(configured(address=":1"), detect=lambda: "fe80::1") == "[fe80::1]:1"


def test_the_machine_s_own_address_is_one_it_can_listen_on() -> None:
    address = local_ip()
    if not address:
        pytest.skip("this machine has no network")
    assert not ipaddress.ip_address(address).is_unspecified
    with socket.create_server((address, 0)):
        pass


def test_a_machine_without_a_network_has_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(self: socket.socket, address: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", unreachable)
    assert local_ip() == ""
