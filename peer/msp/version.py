"""Which of Fabric's membership rules hold.

Room:      peer.msp
Loop:      none
Fabric:    msp/msp.go, common/capabilities/channel.go `MSPVersion` (release-2.5, 3.0)
"""

from __future__ import annotations

from collections.abc import Collection
from enum import IntEnum


class MspVersion(IntEnum):
    """The rules of one Fabric version; later ones compare greater.

    V1_1 adds node OUs for clients and peers, V1_3 combined and anonymous principals, V1_4_3 node
    OUs for administrators and orderers, V3_0 Ed25519.
    """

    V1_0 = 0
    V1_1 = 1
    V1_3 = 2
    V1_4_3 = 3
    V3_0 = 4


_BY_CAPABILITY = {
    "V1_1": MspVersion.V1_1,
    "V1_3": MspVersion.V1_3,
    "V1_4_2": MspVersion.V1_3,
    "V1_4_3": MspVersion.V1_4_3,
    "V2_0": MspVersion.V1_4_3,
    "V3_0": MspVersion.V3_0,
}


def msp_version(capabilities: Collection[str]) -> MspVersion:
    """Return the rules that a channel's capabilities ask for; unknown names ask for nothing."""
    versions = (_BY_CAPABILITY.get(name, MspVersion.V1_0) for name in capabilities)
    return max(versions, default=MspVersion.V1_0)
