"""The MSPs of one channel, or of the peer itself.

Room:      peer.msp
Loop:      none; safe to use from several threads
Lifetime:  one channel configuration
Fabric:    msp/mspmgrimpl.go (release-2.5)
"""

from __future__ import annotations

from collections.abc import Iterable

from fabric_protos.common import MspPrincipal
from peer.msp.identity import Identity
from peer.msp.msp import Msp


class MspManager:
    """Asks the MSP that an identity names.

    Raises:
        MspRefused: two MSPs have one name.
    """

    def __init__(self, msps: Iterable[Msp]) -> None:
        self.msps = {msp.name: msp for msp in msps}

    def deserialize(self, serialized: bytes) -> Identity:
        """
        Raises:
            IdentityRefused: malformed, of an unknown MSP, or not issued by it.
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
