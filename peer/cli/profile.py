"""Connection profiles: the peers of a channel, as client libraries have them in a file.

Room:      peer.cli   (used by session)
Loop:      none
Fabric:    internal/peer/common/networkconfig.go (release-2.5)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from peer.errors import ConfigError
from peer.remote import ClientTls, Endpoint


def peers_of_profile(path: Path, channel_id: str, certificate: bytes, key: bytes) -> list[Endpoint]:
    """Return the peers that endorse on a channel.

    Args:
        certificate: PEM, shown to peers that ask for one, with `key`; empty for none.

    Raises:
        ConfigError: the file cannot be used, or names none.
    """
    try:
        document = yaml.safe_load(path.read_bytes())
        peers = document["channels"][channel_id]["peers"]
        found = [
            _endpoint(path, document["peers"][name], certificate, key)
            for name, roles in peers.items()
            if (roles or {}).get("endorsingPeer", True)
        ]
    except (OSError, yaml.YAMLError) as exc:
        raise ConfigError([f"connection profile {path}: {exc}"]) from exc
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        problem = f"connection profile {path}: no peers of channel {channel_id} in it ({exc})"
        raise ConfigError([problem]) from exc
    if not found:
        raise ConfigError([f"connection profile {path}: no peer endorses on {channel_id}"])
    return found


def _endpoint(path: Path, peer: dict[str, Any], certificate: bytes, key: bytes) -> Endpoint:
    url = urlsplit(peer["url"])
    if url.scheme != "grpcs":
        return Endpoint(url.netloc)
    authorities = peer["tlsCACerts"]
    root = authorities.get("pem", "").encode() or (path.parent / authorities["path"]).read_bytes()
    name = peer.get("grpcOptions", {}).get("ssl-target-name-override", "")
    return Endpoint(url.netloc, ClientTls(root, certificate, key, name))
