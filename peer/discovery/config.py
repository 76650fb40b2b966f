"""A channel's organisations and orderers, as clients ask for them.

Room:      peer.discovery   (imports channel; used by service)
Loop:      none
Lifetime:  one question
Fabric:    discovery/support/config/support.go (release-2.5)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fabric_protos.discovery import ConfigResult, Endpoint, Endpoints
from peer.channel.bundle import Bundle


def config_result(bundle: Bundle) -> ConfigResult:
    """Return the MSPs of a channel, and where the orderers of each organisation are.

    Addresses of the whole channel count only where no organisation names its own, and then for
    each of them.
    """
    organisations = tuple(bundle.orderer.organisations.values()) if bundle.orderer else ()
    own = any(each.endpoints for each in organisations)
    return ConfigResult(
        msps={each.msp_id: each.msp for each in bundle.members},
        orderers={
            each.msp_id: Endpoints(
                endpoint=list(_endpoints(each.endpoints if own else bundle.orderer_addresses))
            )
            for each in organisations
        },
    )


def _endpoints(addresses: Iterable[str]) -> Iterator[Endpoint]:
    """Yield the addresses that have a port; others lead nowhere."""
    for address in addresses:
        host, _, port = address.rpartition(":")
        if host and port.isascii() and port.isdigit():
            yield Endpoint(host=host.strip("[]"), port=int(port))
