"""Which orderers a channel's configuration names, and how each is reached.

Room:      peer.ordering   (imports peer.channel, peer.remote; used by remote and following)
Loop:      none
Lifetime:  peer
Fabric:    common/deliverclient/orderers/connection.go, internal/pkg/peer/orderers (release-2.5)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from peer.channel.bundle import Bundle
from peer.remote import ClientTls, Endpoint


class Override(NamedTuple):
    """Where an orderer really is; `roots` are PEM authorities, empty for those of its channel."""

    address: str
    roots: bytes = b""


class Named(NamedTuple):
    """An orderer that a configuration names; the MSP id may be empty."""

    endpoint: Endpoint
    msp_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """How this peer reaches orderers.

    Attributes:
        is_tls: over TLS; whom to trust then is the channel's to say.
        certificate: PEM, shown to orderers that ask for one, with `key`; empty for none.
        overrides: by the address that configurations give.
    """

    is_tls: bool = False
    certificate: bytes = b""
    key: bytes = field(default=b"", repr=False)
    overrides: Mapping[str, Override] = field(default_factory=dict)

    def named(self, bundle: Bundle) -> list[Named]:
        """Return the orderers of a channel, each address once."""
        found: dict[str, Named] = {}
        for each in bundle.orderer_endpoints:
            override = self.overrides.get(each.address, Override(each.address))
            tls = None
            if self.is_tls:
                roots = override.roots or b"\n".join(each.tls_roots)
                tls = ClientTls(roots, self.certificate, self.key)
            endpoint = Endpoint(override.address, tls)
            found.setdefault(override.address, Named(endpoint, each.msp_id))
        return list(found.values())
