"""One organisation's membership rules.

Room:      peer.msp
Loop:      none; safe to use from several threads
Lifetime:  one channel configuration
Fabric:    msp/mspimpl.go, msp/mspimplsetup.go, msp/mspimplvalidate.go (release-2.5)
"""

from __future__ import annotations

from enum import IntEnum

from fabric_protos.common import MspPrincipal
from fabric_protos.msp import FabricMspConfig
from peer.msp.identity import Identity


class MspVersion(IntEnum):
    """Which of Fabric's rules hold; a channel's capabilities decide."""

    V1_0 = 0
    V1_1 = 1
    V1_3 = 2
    V1_4_3 = 3
    V3_0 = 4


class Msp:
    """What one ``FabricMSPConfig`` allows.

    Raises:
        MspRefused: the configuration cannot be used.
    """

    def __init__(self, config: FabricMspConfig, *, version: MspVersion) -> None:
        self.name = config.name

    def deserialize(self, serialized: bytes) -> Identity:
        """
        Raises:
            IdentityRefused: no certificate of this MSP.
        """
        raise NotImplementedError

    def validate(self, identity: Identity) -> None:
        """
        Raises:
            IdentityRefused: not valid, or revoked.
        """
        raise NotImplementedError

    def satisfies(self, identity: Identity, principal: MspPrincipal) -> None:
        """
        Raises:
            PrincipalNotSatisfied: the identity is not what *principal* describes.
        """
        raise NotImplementedError
