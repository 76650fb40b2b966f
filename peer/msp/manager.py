"""The MSPs of one channel, or of the peer itself.

Room:      peer.msp
Loop:      none; safe to use from several threads
Lifetime:  one channel configuration
Fabric:    msp/mspmgrimpl.go (release-2.5)
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from fabric_protos.codec import DecodeError
from fabric_protos.common import MspPrincipal
from fabric_protos.stream import SerializedIdentity
from peer.errors import IdentityRefused, MspRefused, PrincipalNotSatisfied
from peer.msp.identity import Identity
from peer.msp.msp import KEPT, LONGEST_KEPT, Msp


class MspManager:
    """Asks the MSP that an identity names.

    Attributes:
        msps: the MSPs by name.

    Raises:
        MspRefused: two MSPs have one name.
    """

    def __init__(self, msps: Iterable[Msp]) -> None:
        self._named = lru_cache(KEPT)(self._find_named)
        self.msps: dict[str, Msp] = {}
        for msp in msps:
            if self.msps.setdefault(msp.name, msp) is not msp:
                raise MspRefused(msp.name, "it is defined twice")

    def deserialize(self, serialized: bytes) -> Identity:
        """Read an ``msp.SerializedIdentity``; the same bytes give the same object.

        Raises:
            IdentityRefused: malformed, of an unknown MSP, or no certificate of it.
        """
        find = self._named if len(serialized) <= LONGEST_KEPT else self._find_named
        return find(serialized).deserialize(serialized)

    def validate(self, identity: Identity) -> None:
        """Check that *identity*, which this manager read, is valid; its expiry does not matter.

        Raises:
            IdentityRefused: issued by the wrong authority, revoked, or of the wrong units.
        """
        self.msps[identity.msp_id].validate(identity)

    def satisfies(self, identity: Identity, principal: MspPrincipal) -> None:
        """Check that *identity*, which this manager read, is what *principal* describes.

        Raises:
            PrincipalNotSatisfied: it is not, or is not valid.
        """
        if (reason := self.refusal(identity, principal)) is not None:
            raise PrincipalNotSatisfied(reason)

    def refusal(self, identity: Identity, principal: MspPrincipal) -> str | None:
        """Tell why *identity* does not satisfy *principal*; None if it does."""
        return self.msps[identity.msp_id].refusal(identity, principal)

    def _find_named(self, serialized: bytes) -> Msp:
        """Return the MSP that an identity names."""
        try:
            msp_id = SerializedIdentity.decode(serialized).mspid
        except DecodeError as exc:
            raise IdentityRefused("", f"could not deserialize a SerializedIdentity: {exc}") from exc
        msp = self.msps.get(msp_id)
        if msp is None:
            raise IdentityRefused(msp_id, f"MSP {msp_id} is unknown")
        return msp
