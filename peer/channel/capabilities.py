"""Capabilities: what a channel's members agreed that all of them can do.

Room:      peer.channel   (imports peer.errors, peer.msp; used by bundle and sections)
Loop:      none
Fabric:    common/capabilities/{channel,orderer,application}.go (release-2.5, release-3.1)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from peer.errors import CapabilityUnknown
from peer.msp.version import MspVersion

CHANNEL = ("V1_1", "V1_3", "V1_4_2", "V1_4_3", "V2_0", "V3_0")
ORDERER = ("V1_1", "V1_4_2", "V2_0")
APPLICATION = ("V1_1", "V1_2", "V1_3", "V1_4_2", "V2_0", "V2_5")
EXPERIMENTS = ("V1_1_PVTDATA_EXPERIMENTAL", "V1_1_RESOURCETREE_EXPERIMENTAL")
"""Of the application section; they imply nothing."""

_MSP_VERSIONS = {
    "V3_0": MspVersion.V3_0,
    "V1_4_3": MspVersion.V1_4_3,
    "V1_3": MspVersion.V1_3,
    "V1_1": MspVersion.V1_1,
}


class Capabilities:
    """What one section of a configuration requires; ``"V1_3" in capabilities`` asks for one.

    A later version includes the earlier ones.

    Raises:
        CapabilityUnknown: a name is not among the known ones; nobody without the capability may
            process the channel, or its ledger would differ from the others'.
    """

    def __init__(
        self,
        path: str,
        required: Iterable[str],
        versions: Sequence[str],
        others: Sequence[str] = (),
    ) -> None:
        self.required = frozenset(required)
        if unknown := self.required.difference(versions, others):
            raise CapabilityUnknown(path, sorted(unknown))
        highest = max((versions.index(name) for name in self.required & {*versions}), default=-1)
        self._included = self.required.union(versions[: highest + 1])

    def __contains__(self, name: str) -> bool:
        return name in self._included

    def __repr__(self) -> str:
        return f"Capabilities({', '.join(sorted(self.required)) or 'none'})"


def msp_version(channel: Capabilities) -> MspVersion:
    """Return by which rules the MSPs of a channel judge identities."""
    found = (version for name, version in _MSP_VERSIONS.items() if name in channel)
    return next(found, MspVersion.V1_0)
