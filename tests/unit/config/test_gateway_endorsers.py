"""``peer.gateway.endorsers``: peers of other machines, of which nobody else tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from peer.config import PeerConfig
from peer.config.neighbours import GatewayEndorser
from peer.errors import ConfigError


def load(directory: Path, endorsers: str) -> tuple[GatewayEndorser, ...]:
    file = directory / "core.yaml"
    file.write_text(f"peer:\n  gateway:\n    endorsers: {endorsers}\n")
    return PeerConfig.load(file, env={}).gateway.endorsers


def test_peers_in_their_order(tmp_path: Path) -> None:
    text = (
        "[{mspId: B, address: 'b:7051', tlsRootCertFile: tls/ca.crt}, {address: 'a:1', mspid: A}]"
    )
    assert load(tmp_path, text) == (
        GatewayEndorser(msp_id="B", address="b:7051", tls_root=tmp_path / "tls" / "ca.crt"),
        GatewayEndorser(msp_id="A", address="a:1"),
    )


@pytest.mark.parametrize("none", ["", "[]", "null"])
def test_none(tmp_path: Path, none: str) -> None:
    assert load(tmp_path, none) == ()


def test_from_the_environment() -> None:
    config = PeerConfig.load(env={"CORE_PEER_GATEWAY_ENDORSERS": "[{mspId: A, address: 'a:1'}]"})
    assert config.gateway.endorsers == (GatewayEndorser(msp_id="A", address="a:1"),)


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("{address: 'a:1'}", "expected mspId, address and perhaps tlsRootCertFile of a peer"),
        ("{mspId: A}", "expected mspId, address and perhaps tlsRootCertFile of a peer"),
        ("{mspId: 7, address: 'a:1'}", "expected mspId, address"),
        ("{mspId: A, address: 'a:1', tlsRootCertFile: ''}", "expected mspId, address"),
        ("{mspId: A, address: 'a:1', port: 1}", "expected mspId, address"),
        ("{mspId: A, address: a}", "expected host:port"),
        ("word", "expected mspId, address"),
    ],
)
def test_entries_that_are_none(tmp_path: Path, entry: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"[{{mspId: A, address: 'a:1'}}, {entry}]")
    [text] = caught.value.problems
    assert f"core.yaml:3: peer.gateway.endorsers[1]: {problem}" in text
