"""What is installed, where chaincodes are started by hand.

Room:      peer.lifecycle   (imports builds; implements peer.chaincode's Packages)
Loop:      Trio
Lifetime:  peer
Fabric:    `chaincode.mode: dev`
"""

from __future__ import annotations

from peer.chaincode.connections import ChaincodeServerInfo
from peer.errors import PackageError
from peer.lifecycle.builds import BuildRegistry
from peer.lifecycle.service import SERVICE_TYPES
from runtimes.api import ChaincodePackage, ReportStage


class StartedByHand:
    """What is installed, in development mode: services are dialled, all else its author starts."""

    def __init__(self, packages: BuildRegistry) -> None:
        self._packages = packages

    async def build(
        self, ccid: str, on_stage: ReportStage
    ) -> ChaincodePackage | ChaincodeServerInfo:
        """Return where a service runs; see `BuildRegistry.build`.

        Raises:
            PackageError: for code, with what to do.
        """
        if (await self._packages.find(ccid)).type in SERVICE_TYPES:
            return await self._packages.build(ccid, on_stage)
        raise PackageError(
            "chaincode.mode is dev and it has not registered; "
            f"start it with CORE_CHAINCODE_ID_NAME={ccid} and the peer's chaincode address"
        )
