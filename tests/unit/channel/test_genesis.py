"""Genesis blocks; `test_real_channel` compares their trees with a real one."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import pytest

from fabric_protos.codec import decode, encode
from fabric_protos.common import (
    Block,
    BlockMetadataIndex,
    ChannelHeader,
    Envelope,
    HeaderType,
    Metadata,
    OrdererBlockMetadata,
    Payload,
    SignatureHeader,
)
from fabric_protos.msp import FabricMspConfig
from peer.channel.bundle import Bundle
from peer.channel.configtx import genesis_config
from peer.channel.genesis import (
    CAPABILITIES,
    ApplicationMember,
    ChannelDescription,
    OrdererMember,
    OrdererSettings,
    channel_group,
    genesis_block,
)
from peer.errors import PolicyNotSatisfied
from peer.ledger.blocks import data_hash, is_config_block, last_config_index
from peer.msp.directory import load_config
from peer.msp.policies import SignedData
from tests.unit.channel.networks import Scene


def describe(scene: Scene, capability: str = "V2_0", **more: object) -> ChannelDescription:
    orderer = scene.network.orderer
    return ChannelDescription(
        channel_id="ch",
        capability=capability,
        members=[
            ApplicationMember(name=each.name, msp=load_config(each.msp, each.msp_id))
            for each in scene.network.organisations
        ],
        orderer=OrdererSettings(
            members=[
                OrdererMember(
                    name="Orderer",
                    msp=load_config(orderer.msp, orderer.msp_id),
                    endpoints=["orderer:7050"],
                )
            ]
        ),
        **more,  # type: ignore[arg-type]  # whatever a test gives
    )


def headers(block: Block) -> tuple[ChannelHeader, SignatureHeader, Envelope]:
    assert block.data is not None
    (data,) = block.data.data
    envelope = decode(Envelope, data)
    header = decode(Payload, envelope.payload).header
    assert header is not None
    return (
        decode(ChannelHeader, header.channel_header),
        decode(SignatureHeader, header.signature_header),
        envelope,
    )


def test_the_block(scene: Scene) -> None:
    block = genesis_block(describe(scene))
    assert block.header is not None
    assert block.data is not None
    assert block.metadata is not None
    assert (block.header.number, block.header.previous_hash) == (0, b"")
    assert block.header.data_hash == data_hash(block.data)
    assert is_config_block(block)
    assert last_config_index(block) == 0
    entries = block.metadata.metadata
    assert len(entries) == len(BlockMetadataIndex) == 5
    signed = decode(Metadata, entries[BlockMetadataIndex.SIGNATURES])
    assert signed.signatures == []
    assert decode(OrdererBlockMetadata, signed.value).last_config is not None
    assert entries[BlockMetadataIndex.SIGNATURES] == bytes.fromhex("0a020a00")


def test_the_envelope(scene: Scene) -> None:
    channel, signature, envelope = headers(genesis_block(describe(scene)))
    assert (channel.type, channel.version, channel.epoch) == (HeaderType.CONFIG, 1, 0)
    assert channel.channel_id == "ch"
    assert channel.timestamp is not None
    assert abs(datetime.now(UTC) - channel.timestamp) < timedelta(minutes=1)
    assert signature.creator == b""
    assert len(signature.nonce) == 24
    assert channel.tx_id == hashlib.sha256(signature.nonce).hexdigest()
    assert envelope.signature == b""


def test_two_blocks_of_one_description_have_one_tree_and_two_hashes(scene: Scene) -> None:
    first, second = (genesis_block(describe(scene)) for _ in range(2))
    assert encode(channel_group(describe(scene))) == encode(channel_group(describe(scene)))
    assert first.header is not None
    assert second.header is not None
    assert first.header.data_hash != second.header.data_hash


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_capability_makes_a_channel_that_can_be_opened(scene: Scene, capability: str) -> None:
    _, _, envelope = headers(genesis_block(describe(scene, capability)))
    bundle = Bundle("ch", genesis_config("ch", envelope))
    assert bundle.application is not None
    assert bundle.application.capabilities.required == {capability}
    assert [endpoint.address for endpoint in bundle.orderer_endpoints] == ["orderer:7050"]

    def may(path: str, *names: str) -> bool:
        signers = [
            scene.orderer if name == "orderer" else getattr(scene, name[:-1])(int(name[-1]))
            for name in names
        ]
        signed = [SignedData(b"x", each.creator, each.sign(b"x")) for each in signers]
        try:
            bundle.policy(path).evaluate(signed)
        except PolicyNotSatisfied:
            return False
        return True

    assert may("/Channel/Application/Readers", "peer1")
    assert may("/Channel/Application/Writers", "user2")
    assert not may("/Channel/Application/Writers", "peer0")
    assert may("/Channel/Application/Admins", "admin0", "admin1")
    assert not may("/Channel/Application/Admins", "admin0")
    assert not may("/Channel/Application/Admins", "user0", "user1", "user2")
    assert may("/Channel/Application/Endorsement", "peer0", "peer2")
    assert not may("/Channel/Application/Endorsement", "peer0", "user2")
    assert may("/Channel/Application/LifecycleEndorsement", "peer0", "peer2")
    assert may("/Channel/Orderer/BlockValidation", "orderer")
    assert not may("/Channel/Orderer/BlockValidation", "peer0")


def test_access_can_be_described(scene: Scene) -> None:
    acls = {"peer/Propose": "/Channel/Application/Admins"}
    _, _, envelope = headers(genesis_block(describe(scene, acls=acls)))
    bundle = Bundle("ch", genesis_config("ch", envelope))
    assert bundle.acl("peer/Propose") == "/Channel/Application/Admins"
    assert bundle.acl("event/Block") == "/Channel/Application/Readers"


def test_where_nobody_has_a_role_members_do(scene: Scene) -> None:
    """Organisations without node OUs."""
    msp = FabricMspConfig(name="PlainMSP")
    description = ChannelDescription(
        channel_id="ch",
        members=[ApplicationMember(name="Plain", msp=msp, anchor_peers=[("host", 1)])],
        orderer=OrdererSettings(members=[OrdererMember(name="Orderers", msp=msp)]),
    )
    orderers = channel_group(description).groups["Orderer"].groups["Orderers"]
    assert orderers.values.keys() == {"MSP"}
    group = channel_group(description).groups["Application"].groups["Plain"]
    assert group.values.keys() == {"MSP", "AnchorPeers"}
    for name in ("Readers", "Writers", "Endorsement"):
        policy = group.policies[name].policy
        assert policy is not None
        assert policy.value.endswith(b"PlainMSP")  # MEMBER is the role that is left out
