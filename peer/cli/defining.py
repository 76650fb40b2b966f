"""What ``lifecycle chaincode`` does with definitions.

Room:      peer.cli
Loop:      starts Trio
Fabric:    internal/peer/lifecycle/chaincode/{approveformyorg,checkcommitreadiness,commit,
           querycommitted,queryapproved}.go (release-2.5)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import betterproto2
import click

from fabric_protos.codec import decode, encode
from fabric_protos.lifecycle import (
    CheckCommitReadinessArgs,
    CheckCommitReadinessResult,
    QueryApprovedChaincodeDefinitionArgs,
    QueryApprovedChaincodeDefinitionResult,
    QueryChaincodeDefinitionArgs,
    QueryChaincodeDefinitionResult,
    QueryChaincodeDefinitionsArgs,
    QueryChaincodeDefinitionsResult,
    QueryChaincodeDefinitionsResultChaincodeDefinition,
)
from fabric_protos.stream import ChaincodeInput
from peer.cli.files import collections_of
from peer.cli.flags import OrdererFlags, PeerFlags
from peer.cli.gotext import to_json
from peer.cli.packaging import ask, check_query, wording
from peer.cli.session import OK, open_session, run
from peer.client.calls import Result
from peer.client.collections import application_policy
from peer.client.definitions import WantedDefinition, approval, commitment
from peer.lifecycle.state import LIFECYCLE

Described = QueryChaincodeDefinitionResult | QueryChaincodeDefinitionsResultChaincodeDefinition


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """The flags of a definition."""

    channel_id: str
    name: str
    version: str
    sequence: int
    endorsement_plugin: str
    validation_plugin: str
    signature_policy: str
    channel_config_policy: str
    init_required: bool
    collections: str
    package_id: str = ""

    def wanted(self) -> WantedDefinition:
        """Return what the flags ask for.

        Raises:
            InvalidDefinition, PolicySyntaxError, click.ClickException: they do not make sense.
        """
        policy = application_policy(self.signature_policy, self.channel_config_policy)
        wanted = WantedDefinition(
            name=self.name,
            version=self.version,
            package_id=self.package_id,
            init_required=self.init_required,
            policy=b"" if policy is None else encode(policy),
            collections=collections_of(self.collections),
        )
        return replace(
            wanted,
            endorsement_plugin=self.endorsement_plugin or wanted.endorsement_plugin,
            validation_plugin=self.validation_plugin or wanted.validation_plugin,
        )


def approve(
    definition: Definition, peers: PeerFlags, orderer: OrdererFlags, wait_s: float | None
) -> None:
    """Agree to a definition for the organisation of the peer."""
    arguments = approval(definition.wanted(), definition.sequence)
    _check(run(_submit, "approveformyorg", definition, arguments, peers, orderer, wait_s))


def commit(
    definition: Definition, peers: PeerFlags, orderer: OrdererFlags, wait_s: float | None
) -> None:
    """Make what organisations agreed to the channel's definition."""
    arguments = commitment(definition.wanted(), definition.sequence)
    _check(run(_submit, "commit", definition, arguments, peers, orderer, wait_s))


def check_readiness(definition: Definition, peers: PeerFlags, *, as_json: bool) -> None:
    """Print which organisations have agreed."""
    wanted = definition.wanted()
    arguments = CheckCommitReadinessArgs(
        sequence=definition.sequence,
        name=wanted.name,
        version=wanted.version,
        endorsement_plugin=wanted.endorsement_plugin,
        validation_plugin=wanted.validation_plugin,
        validation_parameter=wanted.policy,
        collections=wanted.collections,
        init_required=wanted.init_required,
    )
    result = ask("checkcommitreadiness", definition.channel_id, arguments, peers)
    check_query(result)
    found = decode(CheckCommitReadinessResult, result.payload)
    if as_json:
        click.echo(to_json(found))
        return
    click.echo(
        f"Chaincode definition for chaincode '{definition.name}', version "
        f"'{definition.version}', sequence '{definition.sequence}' on channel "
        f"'{definition.channel_id}' approval status by org:"
    )
    for msp_id in sorted(found.approvals):
        click.echo(f"{msp_id}: {_go(found.approvals[msp_id])}")


def query_committed(channel_id: str, name: str, peers: PeerFlags, *, as_json: bool) -> None:
    """Print one definition of a channel, or all of them."""
    if not name:
        _query_all(channel_id, peers, as_json=as_json)
        return
    arguments = QueryChaincodeDefinitionArgs(name=name)
    result = ask("querycommitted", channel_id, arguments, peers)
    check_query(result)
    found = decode(QueryChaincodeDefinitionResult, result.payload)
    if as_json:
        click.echo(to_json(found))
        return
    approvals = ", ".join(
        f"{msp_id}: {_go(found.approvals[msp_id])}" for msp_id in sorted(found.approvals)
    )
    click.echo(f"Committed chaincode definition for chaincode '{name}' on channel '{channel_id}':")
    click.echo(f"{_described(found)}, Approvals: [{approvals}]")


def _query_all(channel_id: str, peers: PeerFlags, *, as_json: bool) -> None:
    result = ask("querycommitted", channel_id, QueryChaincodeDefinitionsArgs(), peers)
    check_query(result)
    found = decode(QueryChaincodeDefinitionsResult, result.payload)
    if as_json:
        click.echo(to_json(found))
        return
    click.echo(f"Committed chaincode definitions on channel '{channel_id}':")
    for each in found.chaincode_definitions:
        click.echo(f"Name: {each.name}, {_described(each)}")


def query_approved(
    channel_id: str, name: str, sequence: int, peers: PeerFlags, *, as_json: bool
) -> None:
    """Print what the organisation of a peer has agreed to."""
    arguments = QueryApprovedChaincodeDefinitionArgs(name=name, sequence=sequence)
    result = ask("queryapproved", channel_id, arguments, peers)
    check_query(result)
    found = decode(QueryApprovedChaincodeDefinitionResult, result.payload)
    if as_json:
        click.echo(to_json(found))
        return
    local = found.source and found.source.local_package
    click.echo(f"Approved chaincode definition for chaincode '{name}' on channel '{channel_id}':")
    click.echo(
        f"sequence: {found.sequence}, version: {found.version}, "
        f"init-required: {_go(found.init_required)}, "
        f"package-id: {local.package_id if local else ''}, "
        f"endorsement plugin: {found.endorsement_plugin}, "
        f"validation plugin: {found.validation_plugin}"
    )


async def _submit(
    verb: str,
    definition: Definition,
    arguments: betterproto2.Message,
    peers: PeerFlags,
    orderer: OrdererFlags,
    wait_s: float | None,
) -> Result:
    function = type(arguments).__name__.removesuffix("Args").encode()
    payload = ChaincodeInput(args=[function, encode(arguments)])
    channel_id = definition.channel_id
    async with open_session(wording(verb), peers, channel_id=channel_id, several=True) as session:
        ordering = await session.connect_orderer(orderer, channel_id)
        return await session.submit(channel_id, LIFECYCLE, payload, {}, ordering, wait_s)


def _check(result: Result) -> None:
    if result.status != OK:
        raise click.ClickException(
            f"proposal failed with status: {result.status} - {result.message}"
        )


def _described(found: Described) -> str:
    return (
        f"Version: {found.version}, Sequence: {found.sequence}, "
        f"Endorsement Plugin: {found.endorsement_plugin}, "
        f"Validation Plugin: {found.validation_plugin}"
    )


def _go(value: bool) -> str:
    return str(value).lower()
