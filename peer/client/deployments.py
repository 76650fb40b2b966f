"""Deploy chaincode where ``lscc`` defines it: instantiate it, later upgrade it.

Room:      peer.client   (imports lifecycle; used by library and cli)
Loop:      Trio
Lifetime:  none
Fabric:    internal/peer/chaincode/{instantiate,upgrade}.go (release-2.5)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fabric_protos.codec import encode
from fabric_protos.common import SignaturePolicyEnvelope
from fabric_protos.protos import (
    ChaincodeDeploymentSpec,
    ChaincodeId,
    ChaincodeInput,
    ChaincodeSpec,
    ChaincodeSpecType,
    CollectionConfigPackage,
)
from peer.client.calls import Client
from peer.lifecycle.state import LSCC


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedDeployment:
    """What a channel is to run under one name.

    Attributes:
        name, version: of a deployment spec that the endorsers have installed.
        type: of its code.
        args: what Init is called with.
        policy: who must endorse its transactions; any member of the channel if None.
        collections: its private data collections; an upgrade without any keeps those there are.
        endorsement_plugin, validation_plugin: the standard ones if empty.
    """

    name: str
    version: str
    type: ChaincodeSpecType
    args: Sequence[bytes] = ()
    policy: SignaturePolicyEnvelope | None = None
    collections: CollectionConfigPackage = field(default_factory=CollectionConfigPackage)
    endorsement_plugin: str = ""
    validation_plugin: str = ""


async def instantiate(client: Client, channel_id: str, wanted: WantedDeployment) -> None:
    """Deploy a chaincode that the channel does not have, and run its Init: one transaction.

    Args:
        client: satisfies the instantiation policy of the package; without one, an administrator.

    Raises:
        InvalidDefinition: ``lscc`` refuses it, the endorsers do not agree on what Init wrote, or
            the peers that judge the transaction refuse it.
        LaunchError, ExecuteError: Init could not be run, or failed.
        BroadcastRefused: the ordering service does not take the transaction.
        CommitTimeout: it did, and no block has brought the transaction in time.

    Cancellation: once the ordering service has the transaction it will be committed.
    """
    await _deploy(client, channel_id, wanted, b"deploy")


async def upgrade(client: Client, channel_id: str, wanted: WantedDeployment) -> None:
    """Replace a deployed chaincode by another version, keep its state, and run the new Init.

    Args:
        client: satisfies the instantiation policies of both.

    Otherwise like `instantiate`.
    """
    await _deploy(client, channel_id, wanted, b"upgrade")


def deployment_args(channel_id: str, wanted: WantedDeployment, function: bytes) -> list[bytes]:
    """Return what to call ``lscc`` with; `function` is ``deploy`` or ``upgrade``."""
    spec = ChaincodeSpec(
        type=wanted.type,
        chaincode_id=ChaincodeId(name=wanted.name, version=wanted.version),
        input=ChaincodeInput(args=list(wanted.args)),
    )
    policy = b"" if wanted.policy is None else encode(wanted.policy)
    deployment = encode(ChaincodeDeploymentSpec(chaincode_spec=spec))
    plugins = (wanted.endorsement_plugin.encode(), wanted.validation_plugin.encode())
    args = [function, channel_id.encode(), deployment, policy, *plugins]
    if wanted.collections.config:
        args.append(encode(wanted.collections))
    return args


async def _deploy(
    client: Client, channel_id: str, wanted: WantedDeployment, function: bytes
) -> None:
    args = deployment_args(channel_id, wanted, function)
    await client.define(channel_id, LSCC, wanted.name, args)
