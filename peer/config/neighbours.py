"""What the Gateway and Discovery can be told.

Room:      peer.config   (used by model)
Loop:      none
Lifetime:  read once, before the peer opens
Fabric:    internal/pkg/gateway/config/options.go, core/peer/config.go (release-2.5)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peer.config.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayEndorser:
    """One entry of ``peer.gateway.endorsers``: a peer of another machine.

    Attributes:
        tls_root: file of the PEM certificates behind its TLS certificate; None: without TLS.
    """

    msp_id: str
    address: str
    tls_root: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """The ``peer.gateway`` tree.

    Attributes:
        endorsers: ``peer.gateway.endorsers``, in their order. Not a key of Fabric, whose peers hear
            of each other.
    """

    enabled: bool = setting(
        True,
        key="peer.gateway.enabled",
        doc="Serve the Gateway, which current client libraries use.",
    )
    endorsement_timeout_s: float = setting(
        30.0,
        key="peer.gateway.endorsementTimeout",
        minimum=0.001,
        doc="How long one peer may take to endorse.",
    )
    broadcast_timeout_s: float = setting(
        30.0,
        key="peer.gateway.broadcastTimeout",
        minimum=0.001,
        doc="How long one orderer may take to take a transaction.",
    )
    dial_timeout_s: float = setting(
        120.0,
        key="peer.gateway.dialTimeout",
        minimum=0.001,
        doc="How long connecting to a peer of `peer.gateway.endorsers` may take.",
    )
    endorsers: tuple[GatewayEndorser, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryConfig:
    """The ``peer.discovery`` tree."""

    enabled: bool = setting(
        True,
        key="peer.discovery.enabled",
        doc="Serve Discovery, which older client libraries and `discover` use.",
    )
    members_allowed: bool = setting(
        False,
        key="peer.discovery.orgMembersAllowedAccess",
        doc="Tell every member of the peer's organisation of the peer itself, not only its "
        "administrators.",
    )
