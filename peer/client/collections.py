"""Private data collections as people write them: their names, or a JSON file.

Room:      peer.client   (imports channel, msp; used by library, dev and cli)
Loop:      none
Fabric:    internal/peer/chaincode/common.go `getCollectionConfigFromBytes` (release-2.5)
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from fabric_protos.common import SignaturePolicyEnvelope
from fabric_protos.protos import (
    ApplicationPolicy,
    CollectionConfig,
    CollectionConfigPackage,
    CollectionPolicyConfig,
    StaticCollectionConfig,
)
from peer.channel.channel import Channel
from peer.errors import InvalidDefinition, PolicyError
from peer.msp import standard
from peer.msp.dsl import parse_policy

_KEYS = {
    "name",
    "policy",
    "requiredPeerCount",
    "maxPeerCount",
    "blockToLive",
    "memberOnlyRead",
    "memberOnlyWrite",
    "endorsementPolicy",
}
DEFAULT_MAXIMUM = 1


def read_collections(text: str | bytes) -> CollectionConfigPackage:
    """Read collections of a JSON list.

    Raises:
        InvalidDefinition: *text* is none, or one of them cannot be meant.
    """
    try:
        entries = json.loads(text)
        if not isinstance(entries, list):
            raise TypeError("expected a list of collections")
        return CollectionConfigPackage(config=[_collection(each) for each in entries])
    except (KeyError, TypeError, ValueError, PolicyError) as exc:
        reason = f"{exc} is missing" if isinstance(exc, KeyError) else str(exc)
        raise InvalidDefinition("", f"invalid collection configuration: {reason}") from exc


def collections_of(
    channel: Channel, wanted: Collection[str] | CollectionConfigPackage
) -> CollectionConfigPackage:
    """Return collections; of mere names every organisation of the channel is a member."""
    if isinstance(wanted, CollectionConfigPackage):
        return wanted
    application = channel.bundle.application
    organisations = application.organisations.values() if application else ()
    anyone = standard.signed_by_any(standard.Role.MEMBER, [each.msp_id for each in organisations])
    return CollectionConfigPackage(config=[_open(name, anyone) for name in sorted(wanted)])


def application_policy(signature: str, reference: str) -> ApplicationPolicy | None:
    """Return a policy of a text, or one of the channel's by its name; None if neither is given.

    Raises:
        InvalidDefinition: both are given.
        PolicySyntaxError: the text cannot be read.
    """
    if signature and reference:
        reason = 'cannot specify both "--signature-policy" and "--channel-config-policy"'
        raise InvalidDefinition("", reason)
    if signature:
        return ApplicationPolicy(signature_policy=parse_policy(signature))
    if reference:
        return ApplicationPolicy(channel_config_policy_reference=reference)
    return None


def _open(name: str, members: SignaturePolicyEnvelope) -> CollectionConfig:
    return CollectionConfig(
        static_collection_config=StaticCollectionConfig(
            name=name, member_orgs_policy=CollectionPolicyConfig(signature_policy=members)
        )
    )


def _collection(entry: dict[str, Any]) -> CollectionConfig:
    name = _typed(entry, "name", str)
    if unknown := entry.keys() - _KEYS:
        raise ValueError(f"collection {name}: unknown key {min(unknown)}")
    endorsement = entry.get("endorsementPolicy") or {}
    return CollectionConfig(
        static_collection_config=StaticCollectionConfig(
            name=name,
            member_orgs_policy=CollectionPolicyConfig(
                signature_policy=parse_policy(_typed(entry, "policy", str))
            ),
            required_peer_count=_typed(entry, "requiredPeerCount", int, 0),
            maximum_peer_count=_typed(entry, "maxPeerCount", int, DEFAULT_MAXIMUM),
            block_to_live=_typed(entry, "blockToLive", int, 0),
            member_only_read=_typed(entry, "memberOnlyRead", bool, False),
            member_only_write=_typed(entry, "memberOnlyWrite", bool, False),
            endorsement_policy=application_policy(
                endorsement.get("signaturePolicy", ""), endorsement.get("channelConfigPolicy", "")
            ),
        )
    )


def _typed(entry: dict[str, Any], key: str, kind: type[Any], default: Any = None) -> Any:
    value = entry[key] if default is None else entry.get(key, default)
    if type(value) is not kind:
        raise TypeError(f"{key} must be {kind.__name__}, not {value!r}")
    return value
