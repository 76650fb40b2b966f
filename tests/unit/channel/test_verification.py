"""Blocks of an ordering service: which are taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from fabric_protos.codec import decode, encode
from fabric_protos.common import (
    Block,
    BlockData,
    Capabilities,
    Capability,
    Config,
    ConfigPolicy,
    ConfigValue,
    Consenter,
    Envelope,
    IdentifierHeader,
    MetadataSignature,
    MspPrincipal,
    MspPrincipalClassification,
    Orderers,
    Payload,
    Policy,
    SignaturePolicy,
    SignaturePolicyEnvelope,
    SignaturePolicyNOutOf,
)
from fabric_protos.msp import SerializedIdentity
from fabric_protos.orderer import ConsensusType
from peer.channel.bundle import Bundle
from peer.channel.verification import verify_block
from peer.errors import BlockRefused
from peer.ledger.blocks import data_hash, header_bytes
from peer.msp.directory import load_signing_identity
from peer.msp.identity import SigningIdentity
from tests.unit.channel.networks import (
    VALUE,
    Scene,
    block,
    envelope,
    sign_block,
    with_signatures,
)

PREVIOUS = bytes(range(32))
TRANSACTION = 3


@pytest.fixture
def good(scene: Scene) -> Block:
    made = block(7, PREVIOUS, [envelope(scene.channel_id, TRANSACTION, b"data")] * 2)
    return sign_block(made, [scene.orderer])


def refusal(bundle: Bundle, made: Block, number: int = 7, previous: bytes = PREVIOUS) -> str:
    with pytest.raises(BlockRefused) as caught:
        verify_block(bundle, made, number, previous)
    assert caught.value.channel_id == bundle.channel_id
    assert caught.value.number == number
    return caught.value.reason


def test_a_signed_block_that_follows_is_taken(scene: Scene, good: Block) -> None:
    verify_block(scene.bundle, good, 7, PREVIOUS)


def test_more_signatures_than_needed_do_no_harm(scene: Scene, good: Block) -> None:
    verify_block(scene.bundle, sign_block(good, [scene.admin(0), scene.orderer]), 7, PREVIOUS)


def test_another_block_than_the_next_is_refused(scene: Scene, good: Block) -> None:
    assert refusal(scene.bundle, good, number=6) == "block 7 came in its place"
    assert "previous hash" in refusal(scene.bundle, good, previous=bytes(32))


def drop_header(made: Block) -> None:
    made.header = None


def drop_data(made: Block) -> None:
    made.data = None


def drop_metadata(made: Block) -> None:
    made.metadata = None


def change_data(made: Block) -> None:
    assert made.data is not None
    made.data.data.reverse()
    made.data.data[0] += b"\x12\x01x"


def damage_signatures(made: Block) -> None:
    assert made.metadata is not None
    made.metadata.metadata[0] = b"\xff"


def damage_a_signature_header(made: Block) -> None:
    with_signatures(made, [MetadataSignature(signature_header=b"\xff", signature=b"s")])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (drop_header, "no header"),
        (drop_data, "no transaction"),
        (drop_metadata, "/Channel/Orderer/BlockValidation is not satisfied"),
        (change_data, "does not cover its data"),
        (damage_signatures, "its signatures cannot be read"),
        (damage_a_signature_header, "its signatures cannot be read"),
    ],
)
def test_a_damaged_block_is_refused(
    scene: Scene, good: Block, damage: Callable[[Block], None], reason: str
) -> None:
    damage(good)
    assert reason in refusal(scene.bundle, good)


def with_envelopes(made: Block, envelopes: Sequence[Envelope]) -> Block:
    made.data = BlockData(data=[encode(each) for each in envelopes])
    assert made.header is not None
    made.header.data_hash = data_hash(made.data)
    return made


def test_a_block_of_another_channel_is_refused(scene: Scene, good: Block) -> None:
    made = with_envelopes(good, [envelope("other", TRANSACTION, b"data")])
    assert (
        refusal(scene.bundle, sign_block(made, [scene.orderer])) == "it belongs to channel 'other'"
    )


def test_a_block_whose_first_transaction_has_no_channel_is_refused(
    scene: Scene, good: Block
) -> None:
    bare = Envelope(payload=encode(Payload(data=b"x")), signature=b"s")
    made = sign_block(with_envelopes(good, [bare]), [scene.orderer])
    assert refusal(scene.bundle, made) == "its first transaction has no header"
    broken = Envelope(payload=b"\xff", signature=b"s")
    assert refusal(scene.bundle, sign_block(with_envelopes(good, [broken]), [scene.orderer]))


def test_only_the_ordering_service_signs_blocks(scene: Scene, good: Block) -> None:
    policy = "policy /Channel/Orderer/BlockValidation is not satisfied"
    assert policy in refusal(scene.bundle, sign_block(good, []))
    assert policy in refusal(scene.bundle, sign_block(good, [scene.admin(0), scene.peer(1)]))
    stranger = SigningIdentity.self_signed("OrdererMSP")
    assert policy in refusal(scene.bundle, sign_block(good, [stranger]))


def test_a_signature_holds_for_its_header_alone(scene: Scene, good: Block) -> None:
    assert good.header is not None
    good.header.previous_hash = bytes(32)
    assert "is not satisfied" in refusal(scene.bundle, good, previous=bytes(32))


# BFT


class Consenters:
    """Four consenters of a BFT channel, and the quorum of three that must sign."""

    def __init__(self, scene: Scene, nodes: Sequence[SigningIdentity]) -> None:
        self.nodes = nodes
        self.identities = [decode(SerializedIdentity, node.creator) for node in nodes]
        self.bundle = Bundle(scene.channel_id, self.config(scene, "V3_0", "BFT"))

    def config(self, scene: Scene, capability: str, consensus: str) -> Config:
        config = scene.config()
        assert config.channel_group is not None
        orderer = config.channel_group.groups["Orderer"]
        required = Capabilities(capabilities={capability: Capability()})
        config.channel_group.values["Capabilities"] = ConfigValue(value=encode(required))
        orderer.values["ConsensusType"] = ConfigValue(value=encode(ConsensusType(type=consensus)))
        mapping = [
            Consenter(id=number, msp_id=each.mspid, identity=each.id_bytes)
            for number, each in enumerate(self.identities, start=1)
        ]
        orderer.values["Orderers"] = ConfigValue(value=encode(Orderers(consenter_mapping=mapping)))
        rules = [SignaturePolicy(signed_by=index) for index in range(len(self.nodes))]
        quorum = SignaturePolicyEnvelope(
            rule=SignaturePolicy(n_out_of=SignaturePolicyNOutOf(n=3, rules=rules)),
            identities=[
                MspPrincipal(
                    principal_classification=MspPrincipalClassification.IDENTITY,
                    principal=encode(each),
                )
                for each in self.identities
            ],
        )
        policy = Policy(type=1, value=encode(quorum))
        orderer.policies["BlockValidation"] = ConfigPolicy(policy=policy, mod_policy="Admins")
        return config

    def signature(self, made: Block, number: int, signer: int) -> MetadataSignature:
        assert made.header is not None
        header = encode(IdentifierHeader(identifier=number, nonce=b"nonce"))
        signature = self.nodes[signer - 1].sign(VALUE + header + header_bytes(made.header))
        return MetadataSignature(identifier_header=header, signature=signature)

    def signed(self, made: Block, *numbers: int) -> Block:
        return with_signatures(made, [self.signature(made, each, each) for each in numbers])


@pytest.fixture(scope="module")
def consenters(scene: Scene) -> Consenters:
    organisation = scene.network.orderer
    members = [*organisation.nodes, *organisation.users]
    nodes = [load_signing_identity(each.msp, organisation.msp_id) for each in members]
    nodes += [scene.peer(0), scene.peer(1)]
    return Consenters(scene, nodes)


def test_a_quorum_of_consenters_signs_by_number(consenters: Consenters, good: Block) -> None:
    verify_block(consenters.bundle, consenters.signed(good, 1, 2, 3), 7, PREVIOUS)
    verify_block(consenters.bundle, consenters.signed(good, 4, 3, 1, 2), 7, PREVIOUS)


def test_less_than_a_quorum_is_refused(consenters: Consenters, good: Block) -> None:
    for numbers in ((), (1, 2), (1, 1, 1), (2, 2, 4)):
        made = consenters.signed(good, *numbers)
        assert "is not satisfied" in refusal(consenters.bundle, made)


def test_a_consenter_cannot_sign_for_another(consenters: Consenters, good: Block) -> None:
    signatures = [consenters.signature(good, number, 1) for number in (1, 2, 3)]
    assert "is not satisfied" in refusal(consenters.bundle, with_signatures(good, signatures))


def test_consenters_nobody_knows_are_passed_over(consenters: Consenters, good: Block) -> None:
    signatures = [
        consenters.signature(good, number, signer)
        for number, signer in ((9, 1), (1, 1), (0, 4), (2, 2), (3, 3))
    ]
    verify_block(consenters.bundle, with_signatures(good, signatures), 7, PREVIOUS)
    assert "is not satisfied" in refusal(consenters.bundle, with_signatures(good, signatures[:4]))


def test_numbers_count_with_the_capability_alone(
    scene: Scene, consenters: Consenters, good: Block
) -> None:
    config = consenters.config(scene, "V2_0", "etcdraft")
    before = Bundle(scene.channel_id, config)
    assert "is not satisfied" in refusal(before, consenters.signed(good, 1, 2, 3))
    nodes = [consenters.nodes[index] for index in (0, 1, 2)]
    verify_block(before, sign_block(good, nodes), 7, PREVIOUS)
    verify_block(consenters.bundle, sign_block(good, nodes), 7, PREVIOUS)


def test_a_damaged_identifier_is_refused(consenters: Consenters, good: Block) -> None:
    made = with_signatures(good, [MetadataSignature(identifier_header=b"\xff", signature=b"s")])
    assert "its signatures cannot be read" in refusal(consenters.bundle, made)
