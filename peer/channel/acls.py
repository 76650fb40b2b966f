"""Who may use which of the peer's services: the defaults.

Room:      peer.channel   (imports nothing; used by bundle and by whoever checks access)
Loop:      none
Fabric:    core/aclmgmt/defaultaclprovider.go, core/aclmgmt/resources (release-2.5)
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

_READERS = "/Channel/Application/Readers"
_WRITERS = "/Channel/Application/Writers"


class LocalPolicy(enum.Enum):
    """What the peer's own MSP decides, whatever a channel says."""

    ADMINS = "Admins"
    MEMBERS = "Members"


LOCAL: Mapping[str, LocalPolicy] = dict.fromkeys(
    (
        "_lifecycle/ApproveChaincodeDefinitionForMyOrg",
        "_lifecycle/GetInstalledChaincodePackage",
        "_lifecycle/InstallChaincode",
        "_lifecycle/QueryApprovedChaincodeDefinition",
        "_lifecycle/QueryApprovedChaincodeDefinitions",
        "_lifecycle/QueryInstalledChaincode",
        "_lifecycle/QueryInstalledChaincodes",
        "cscc/JoinBySnapshotStatus",
        "cscc/JoinChain",
        "cscc/JoinChainBySnapshot",
        "lscc/GetInstalledChaincodes",
        "lscc/Install",
        "snapshot/cancelrequest",
        "snapshot/listpending",
        "snapshot/submitrequest",
    ),
    LocalPolicy.ADMINS,
) | {"cscc/GetChannels": LocalPolicy.MEMBERS}
"""By resource; no channel can change these."""

DEFAULTS: Mapping[str, str] = dict.fromkeys(
    (
        "_lifecycle/CheckCommitReadiness",
        "_lifecycle/CommitChaincodeDefinition",
        "_lifecycle/QueryChaincodeDefinition",
        "_lifecycle/QueryChaincodeDefinitions",
        "peer/ChaincodeToChaincode",
        "peer/Propose",
    ),
    _WRITERS,
) | dict.fromkeys(
    (
        "cscc/GetChannelConfig",
        "cscc/GetConfigBlock",
        "event/Block",
        "event/FilteredBlock",
        "gateway/ChaincodeEvents",
        "gateway/CommitStatus",
        "lscc/ChaincodeExists",
        "lscc/GetChaincodeData",
        "lscc/GetCollectionsConfig",
        "lscc/GetDeploymentSpec",
        "lscc/GetInstantiatedChaincodes",
        "qscc/GetBlockByHash",
        "qscc/GetBlockByNumber",
        "qscc/GetBlockByTxID",
        "qscc/GetChainInfo",
        "qscc/GetTransactionByID",
    ),
    _READERS,
)
"""Path of the channel's policy by resource, where the channel's ACLs name no other."""
