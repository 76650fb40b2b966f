"""Genesis blocks: the first configuration of a channel, from a description of it.

Room:      peer.channel   (imports fabric_protos, peer.ledger, peer.msp; used by network)
Loop:      none
Fabric:    internal/configtxgen/encoder/encoder.go, common/genesis/genesis.go (release-2.5)
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import NamedTuple

import betterproto2

from fabric_protos.codec import encode
from fabric_protos.common import (
    Block,
    BlockData,
    BlockDataHashingStructure,
    BlockHeader,
    BlockMetadata,
    BlockMetadataIndex,
    Capabilities,
    Capability,
    ChannelHeader,
    Config,
    ConfigEnvelope,
    ConfigGroup,
    ConfigPolicy,
    ConfigValue,
    Envelope,
    HashingAlgorithm,
    Header,
    HeaderType,
    ImplicitMetaPolicy,
    ImplicitMetaPolicyRule,
    LastConfig,
    Metadata,
    OrdererAddresses,
    OrdererBlockMetadata,
    Payload,
    Policy,
    PolicyPolicyType,
    SignatureHeader,
)
from fabric_protos.msp import FabricMspConfig, MspConfig
from fabric_protos.orderer import BatchSize, BatchTimeout, ChannelRestrictions, ConsensusType
from fabric_protos.protos import AcLs, AnchorPeer, AnchorPeers, ApiResource
from peer.ledger.blocks import data_hash
from peer.msp.dsl import parse_policy

ADMINS = "Admins"
CAPABILITIES: Mapping[str, tuple[str, str]] = {
    "V1_4_2": ("V1_4_3", "V1_4_2"),
    "V2_0": ("V2_0", "V2_0"),
    "V2_5": ("V2_0", "V2_0"),
}
"""Channel and orderer capability that go with one of the application section.

V1_4_2 has V1_4_3 above it, the first that knows administrators by their organisational unit.
"""

_WHOLE_BLOCK = 2**32 - 1
_NONCE_BYTES = 24


class ApplicationMember(NamedTuple):
    """An organisation with peers; `name` is its group's key, `anchor_peers` host and port."""

    name: str
    msp: FabricMspConfig
    anchor_peers: Sequence[tuple[str, int]] = ()


class OrdererMember(NamedTuple):
    """An organisation with orderers; `endpoints` are theirs, ``host:port``."""

    name: str
    msp: FabricMspConfig
    endpoints: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OrdererSettings:
    """How blocks are made; `batch_timeout` is a Go duration. The defaults are configtxgen's."""

    members: Sequence[OrdererMember]
    consensus_type: str = "solo"
    consensus_metadata: bytes = b""
    batch_timeout: str = "2s"
    max_message_count: int = 500
    absolute_max_bytes: int = 10 << 20
    preferred_max_bytes: int = 2 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelDescription:
    """What a channel begins with.

    Attributes:
        capability: of the application section, a key of `CAPABILITIES`; V1_4_2 means chaincodes
            are deployed through lscc, V2_0 through _lifecycle.
        acls: policy by resource, where it is not to be the default.
    """

    channel_id: str
    members: Sequence[ApplicationMember]
    orderer: OrdererSettings
    capability: str = "V2_0"
    acls: Mapping[str, str] = field(default_factory=dict)


def genesis_block(description: ChannelDescription) -> Block:
    """Return block 0 of a channel. Two for the same description differ in nonce and time."""
    nonce = os.urandom(_NONCE_BYTES)
    channel_header = ChannelHeader(
        type=HeaderType.CONFIG,
        version=1,
        timestamp=datetime.now(UTC).replace(microsecond=0),
        channel_id=description.channel_id,
        tx_id=hashlib.sha256(nonce).hexdigest(),
    )
    header = Header(
        channel_header=encode(channel_header),
        signature_header=encode(SignatureHeader(nonce=nonce)),
    )
    config = ConfigEnvelope(config=Config(channel_group=channel_group(description)))
    envelope = Envelope(payload=encode(Payload(header=header, data=encode(config))))
    data = BlockData(data=[encode(envelope)])
    metadata = [b""] * len(BlockMetadataIndex)
    last_config = LastConfig(index=0)
    metadata[BlockMetadataIndex.SIGNATURES] = encode(
        Metadata(value=encode(OrdererBlockMetadata(last_config=last_config)))
    )
    metadata[BlockMetadataIndex.LAST_CONFIG] = encode(Metadata(value=encode(last_config)))
    return Block(
        header=BlockHeader(number=0, data_hash=data_hash(data)),
        data=data,
        metadata=BlockMetadata(metadata=metadata),
    )


def channel_group(description: ChannelDescription) -> ConfigGroup:
    """Return the configuration tree of a channel."""
    channel, orderer = CAPABILITIES[description.capability]
    values = {
        "HashingAlgorithm": HashingAlgorithm(name="SHA256"),
        "BlockDataHashingStructure": BlockDataHashingStructure(width=_WHOLE_BLOCK),
        "Capabilities": _capabilities(channel),
    }
    return _group(
        values,
        _meta_policies(),
        {
            "Orderer": _orderer(description.orderer, orderer),
            "Application": _application(description),
        },
    )


def _orderer(settings: OrdererSettings, capability: str) -> ConfigGroup:
    values = {
        "ConsensusType": ConsensusType(
            type=settings.consensus_type, metadata=settings.consensus_metadata
        ),
        "BatchSize": BatchSize(
            max_message_count=settings.max_message_count,
            absolute_max_bytes=settings.absolute_max_bytes,
            preferred_max_bytes=settings.preferred_max_bytes,
        ),
        "BatchTimeout": BatchTimeout(timeout=settings.batch_timeout),
        "ChannelRestrictions": ChannelRestrictions(),
        "Capabilities": _capabilities(capability),
    }
    validation = _meta_policy("Writers", ImplicitMetaPolicyRule.ANY)
    members = {member.name: _orderer_member(member) for member in settings.members}
    return _group(values, _meta_policies(BlockValidation=validation), members)


def _orderer_member(member: OrdererMember) -> ConfigGroup:
    msp_id = member.msp.name
    policies = {
        "Readers": _signature_policy(msp_id, "member"),
        "Writers": _signature_policy(msp_id, "member"),
        "Admins": _signature_policy(msp_id, "admin"),
    }
    values: dict[str, betterproto2.Message] = {"MSP": _msp(member.msp)}
    if member.endpoints:
        values["Endpoints"] = OrdererAddresses(addresses=list(member.endpoints))
    return _group(values, policies)


def _application(description: ChannelDescription) -> ConfigGroup:
    values: dict[str, betterproto2.Message] = {
        "Capabilities": _capabilities(description.capability)
    }
    if description.acls:
        resources = {name: ApiResource(policy_ref=ref) for name, ref in description.acls.items()}
        values["ACLs"] = AcLs(acls=resources)
    majority = _meta_policy("Endorsement", ImplicitMetaPolicyRule.MAJORITY)
    policies = _meta_policies(Endorsement=majority, LifecycleEndorsement=majority)
    members = {member.name: _application_member(member) for member in description.members}
    return _group(values, policies, members)


def _application_member(member: ApplicationMember) -> ConfigGroup:
    msp_id = member.msp.name
    # Without node OUs nobody is a client or a peer; all that is known is who belongs.
    has_roles = bool(member.msp.fabric_node_ous and member.msp.fabric_node_ous.enable)
    policies = {
        "Readers": _signature_policy(
            msp_id, *(("admin", "peer", "client") if has_roles else ("member",))
        ),
        "Writers": _signature_policy(msp_id, *(("admin", "client") if has_roles else ("member",))),
        "Admins": _signature_policy(msp_id, "admin"),
        "Endorsement": _signature_policy(msp_id, "peer" if has_roles else "member"),
    }
    values: dict[str, betterproto2.Message] = {"MSP": _msp(member.msp)}
    if member.anchor_peers:
        peers = [AnchorPeer(host=host, port=port) for host, port in member.anchor_peers]
        values["AnchorPeers"] = AnchorPeers(anchor_peers=peers)
    return _group(values, policies)


def _group(
    values: Mapping[str, betterproto2.Message],
    policies: Mapping[str, Policy],
    groups: Mapping[str, ConfigGroup] = MappingProxyType({}),
) -> ConfigGroup:
    return ConfigGroup(
        groups=dict(groups),
        values={
            name: ConfigValue(value=encode(value), mod_policy=ADMINS)
            for name, value in values.items()
        },
        policies={
            name: ConfigPolicy(policy=policy, mod_policy=ADMINS)
            for name, policy in policies.items()
        },
        mod_policy=ADMINS,
    )


def _meta_policies(**more: Policy) -> dict[str, Policy]:
    return {
        "Readers": _meta_policy("Readers", ImplicitMetaPolicyRule.ANY),
        "Writers": _meta_policy("Writers", ImplicitMetaPolicyRule.ANY),
        "Admins": _meta_policy("Admins", ImplicitMetaPolicyRule.MAJORITY),
        **more,
    }


def _meta_policy(name: str, rule: ImplicitMetaPolicyRule) -> Policy:
    value = encode(ImplicitMetaPolicy(sub_policy=name, rule=rule))
    return Policy(type=PolicyPolicyType.IMPLICIT_META, value=value)


def _signature_policy(msp_id: str, *roles: str) -> Policy:
    principals = ",".join(f"'{msp_id}.{role}'" for role in roles)
    envelope = parse_policy(f"OR({principals})")
    return Policy(type=PolicyPolicyType.SIGNATURE, value=encode(envelope))


def _capabilities(*names: str) -> Capabilities:
    return Capabilities(capabilities={name: Capability() for name in names})


def _msp(config: FabricMspConfig) -> MspConfig:
    return MspConfig(type=0, config=encode(config))
