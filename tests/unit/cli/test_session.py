"""Which peers a command asks, and with which files."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from peer.cli.flags import PeerFlags
from peer.cli.session import peer_endpoints
from peer.config import PeerConfig
from peer.remote import Endpoint

NOBODY = PeerFlags((), ())


@pytest.mark.parametrize("tls", [True, False])
def test_a_client_certificate_is_looked_for_with_tls_only(tmp_path: Path, tls: bool) -> None:
    root = tmp_path / "root.pem"
    root.write_bytes(b"root")
    env = {
        "CORE_PEER_ADDRESS": "peer:7051",
        "CORE_PEER_TLS_ENABLED": str(tls).lower(),
        "CORE_PEER_TLS_ROOTCERT_FILE": str(root),
        "CORE_PEER_TLS_CLIENTCERT_FILE": str(tmp_path / "gone.pem"),
    }
    config = PeerConfig.load(env=env)
    if tls:
        with pytest.raises(click.ClickException, match=r"unable to load .*gone\.pem"):
            peer_endpoints(config, NOBODY)
    else:
        assert peer_endpoints(config, NOBODY) == [Endpoint("peer:7051")]
