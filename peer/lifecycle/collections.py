"""Which private data collections may be defined.

Room:      peer.lifecycle   (used by the system chaincodes)
Loop:      none
Fabric:    core/chaincode/lifecycle/scc.go `validateCollectionConfigs` (release-2.5)
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

from fabric_protos.codec import decode
from fabric_protos.common import (
    MspPrincipal,
    MspPrincipalClassification,
    MspRole,
    OrganizationUnit,
    SignaturePolicy,
    SignaturePolicyEnvelope,
)
from fabric_protos.errors import DecodeError
from fabric_protos.protos import CollectionConfigPackage, StaticCollectionConfig
from fabric_protos.stream import SerializedIdentity
from peer.errors import InvalidDefinition

NAME = re.compile(r"[A-Za-z0-9-]+([A-Za-z0-9_-]+)*")


def static_collections(
    chaincode: str, package: CollectionConfigPackage
) -> list[StaticCollectionConfig]:
    """Return the collections of a definition.

    Raises:
        InvalidDefinition: one is of another kind.
    """
    found = [each.static_collection_config for each in package.config]
    known = [each for each in found if each is not None]
    if len(known) != len(found):
        raise InvalidDefinition(chaincode, "unknown collection configuration type")
    return known


def check_collections(
    chaincode: str, collections: Sequence[StaticCollectionConfig], msp_ids: Collection[str]
) -> None:
    """Check the collections of a definition by themselves.

    Args:
        msp_ids: the members of the channel.

    Raises:
        InvalidDefinition: one breaks a rule.
    """
    seen: set[str] = set()
    for each in collections:
        for problem in _problems(each, seen, msp_ids):
            raise InvalidDefinition(chaincode, problem)
        seen.add(each.name)


def check_kept(
    chaincode: str,
    collections: Sequence[StaticCollectionConfig],
    former: Sequence[StaticCollectionConfig],
) -> None:
    """Check that a definition keeps the collections of the one before.

    Raises:
        InvalidDefinition: one is missing, or would live shorter or longer.
    """
    new = {each.name: each for each in collections}
    for old in former:
        if (found := new.get(old.name)) is None:
            raise InvalidDefinition(
                chaincode,
                f"existing collection [{old.name}] missing in the proposed collection "
                "configuration",
            )
        if found.block_to_live != old.block_to_live:
            raise InvalidDefinition(
                chaincode,
                f"the BlockToLive in an existing collection [{old.name}] modified. "
                f"Existing value [{old.block_to_live}]",
            )


def member_principals(collection: StaticCollectionConfig) -> SignaturePolicyEnvelope:
    """Return the policy that tells a collection's members.

    Raises:
        ValueError: there is none.
    """
    config = collection.member_orgs_policy
    if config is None:
        raise ValueError("collection member policy is not set")
    if config.signature_policy is None:
        raise ValueError("collection member org policy is empty")
    return config.signature_policy


def _problems(
    collection: StaticCollectionConfig, seen: set[str], msp_ids: Collection[str]
) -> Iterator[str]:
    name = collection.name
    required, maximum = collection.required_peer_count, collection.maximum_peer_count
    if not NAME.fullmatch(name):
        yield (
            f"collection name: {name!r} not allowed. A valid collection name follows the pattern: "
            f"{NAME.pattern}"
        )
    if name in seen:
        yield f"collection-name: {name} -- found duplicate in collection configuration"
    if maximum < required:
        yield (
            f"collection-name: {name} -- maximum peer count ({maximum}) cannot be less than the "
            f"required peer count ({required})"
        )
    if required < 0:
        yield (
            f"collection-name: {name} -- requiredPeerCount ({required}) cannot be less than zero"
        )
    try:
        policy = member_principals(collection)
        check_is_any(policy.rule)
        organisations = [organisation_of(each) for each in policy.identities]
    except (DecodeError, ValueError) as exc:
        yield f"collection-name: {name} -- error in member org policy: {exc}"
        return
    for organisation in organisations:
        if organisation not in msp_ids:
            yield (
                f"collection-name: {name} -- collection member '{organisation}' is not part of the "
                "channel"
            )


def check_is_any(rule: SignaturePolicy | None) -> None:
    """Check that one signature is always enough: then who may sign is who is a member.

    Raises:
        ValueError: it is not.
    """
    if rule is None:
        raise ValueError("the signature policy has no rule")
    if rule.n_out_of is not None:
        if rule.n_out_of.n != 1:
            raise ValueError(
                f"signature policy is not an OR concatenation, NOutOf {rule.n_out_of.n}"
            )
        for each in rule.n_out_of.rules:
            check_is_any(each)


def organisation_of(principal: MspPrincipal) -> str:
    """Return the MSP whose identities a principal describes.

    Raises:
        DecodeError: it cannot be read.
        ValueError: it is of a kind that names none.
    """
    match principal.principal_classification:
        case MspPrincipalClassification.ROLE:
            return decode(MspRole, principal.principal).msp_identifier
        case MspPrincipalClassification.ORGANIZATION_UNIT:
            return decode(OrganizationUnit, principal.principal).msp_identifier
        case MspPrincipalClassification.IDENTITY:
            return SerializedIdentity.decode(principal.principal).mspid
        case other:
            raise ValueError(f"principal type {int(other)} is not supported")
