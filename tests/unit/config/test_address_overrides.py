"""``peer.deliveryclient.addressOverrides``: orderers that are not where their channel says."""

from __future__ import annotations

import pytest

from peer.config import PeerConfig
from peer.config.model import AddressOverride
from peer.errors import ConfigError

VARIABLE = "CORE_PEER_DELIVERYCLIENT_ADDRESSOVERRIDES"


def test_a_variable_has_them_as_yaml() -> None:
    text = "[{from: 'a:1', to: 'b:2', caCertsFile: ''}, {From: 'c:3', TO: 'd:4'}]"
    assert PeerConfig.load(env={VARIABLE: text}).delivery.address_overrides == (
        AddressOverride(channel_address="a:1", address="b:2"),
        AddressOverride(channel_address="c:3", address="d:4"),
    )


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("{from: 'a:1'}", "expected from, to and perhaps caCertsFile of an orderer"),
        ("{to: 'a:1'}", "expected from, to and perhaps caCertsFile of an orderer"),
        ("{from: 'a:1', to: 'b:2', name: x}", "expected from, to and perhaps caCertsFile"),
        ("{from: 'a:1', to: 'b:2', caCertsFile: [x]}", "expected from, to and perhaps"),
        ("{from: 'a:1', to: b}", "expected host:port"),
        ("a:1", "expected from, to and perhaps caCertsFile of an orderer"),
    ],
)
def test_what_is_none_is_refused(entry: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PeerConfig.load(env={VARIABLE: f"[{entry}]"})
    [text] = caught.value.problems
    assert f"{VARIABLE}[0]: {problem}" in text
