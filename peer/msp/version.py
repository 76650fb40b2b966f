"""Which of Fabric's membership rules hold.

Room:      peer.msp
Loop:      none
Fabric:    msp/msp.go `MSPVersion` (release-2.5, 3.0)
"""

from __future__ import annotations

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
