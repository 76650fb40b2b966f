"""Proposals that are not taken: each refusal with its text, and which comes first."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric import utils

from fabric_protos.codec import encode
from fabric_protos.common import ConfigValue, HeaderType
from fabric_protos.protos import AcLs, ApiResource
from fabric_protos.stream import (
    ChaincodeHeaderExtension,
    ChaincodeId,
    ChaincodeInput,
    ChaincodeInvocationSpec,
    ChaincodeProposalPayload,
    ChaincodeSpec,
    ChannelHeader,
    Header,
    Proposal,
    SerializedIdentity,
    SignatureHeader,
    SignedProposal,
)
from peer.channel.bundle import Bundle
from peer.endorser import preprocess
from peer.errors import AccessDenied, ProposalRefused
from peer.ledger.api import ValidationCode
from peer.msp.identity import SigningIdentity
from peer.msp.signatures import ORDERS
from tests.unit.channel.networks import Scene, expired_user
from tests.unit.endorser.conftest import Desk
from tests.unit.validation.forging import CC, CHANNEL, GARBAGE, World, writes

INPUT = ChaincodeInvocationSpec(
    chaincode_spec=ChaincodeSpec(
        chaincode_id=ChaincodeId(name=CC), input=ChaincodeInput(args=[b"get"])
    )
).encode()


@dataclass
class Forged:
    """A proposal; what is not given is as it must be for the rest of it."""

    signer: SigningIdentity
    channel_id: str = CHANNEL
    type: int = HeaderType.ENDORSER_TRANSACTION
    epoch: int = 0
    nonce: bytes = field(default_factory=lambda: os.urandom(24))
    creator: bytes | None = None
    tx_id: str | None = None
    extension: bytes = ChaincodeHeaderExtension(chaincode_id=ChaincodeId(name=CC)).encode()
    channel_header: bytes | None = None
    signature_header: bytes | None = None
    header: bytes | None = None
    input: bytes = INPUT
    payload: bytes | None = None
    proposal: bytes | None = None
    signature: bytes | None = None

    def made(self) -> SignedProposal:
        proposal = self.proposal_bytes()
        signature = self.signer.sign(proposal) if self.signature is None else self.signature
        return SignedProposal(proposal_bytes=proposal, signature=signature)

    def proposal_bytes(self) -> bytes:
        if self.proposal is not None:
            return self.proposal
        creator = self.signer.creator if self.creator is None else self.creator
        tx_id = sha256(self.nonce + creator).hexdigest() if self.tx_id is None else self.tx_id
        channel_header = ChannelHeader(
            type=self.type,
            channel_id=self.channel_id,
            epoch=self.epoch,
            tx_id=tx_id,
            extension=self.extension,
        ).encode()
        signature_header = SignatureHeader(creator=creator, nonce=self.nonce).encode()
        header = Header(
            channel_header=given(self.channel_header, channel_header),
            signature_header=given(self.signature_header, signature_header),
        ).encode()
        payload = ChaincodeProposalPayload(input=self.input).encode()
        return Proposal(
            header=given(self.header, header), payload=given(self.payload, payload)
        ).encode()


def given(value: bytes | None, otherwise: bytes) -> bytes:
    return otherwise if value is None else value


async def refusal(desk: Desk, **changes: object) -> str:
    """Return the text with which a proposal is refused; nothing may have been run."""
    forged = Forged(desk.client)
    for name, value in changes.items():
        setattr(forged, name, value)
    with pytest.raises(ProposalRefused) as caught:
        await desk.endorser.process_proposal(forged.made())
    assert desk.script.calls == []
    return str(caught.value)


async def test_the_proposal_that_all_others_differ_from_is_endorsed(desk: Desk) -> None:
    answer = await desk.endorser.process_proposal(Forged(desk.client).made())
    assert answer.endorsement is not None


@pytest.mark.parametrize("level", ["proposal", "header", "signature_header"])
async def test_a_level_above_the_creator_that_cannot_be_read(desk: Desk, level: str) -> None:
    assert (await refusal(desk, **{level: GARBAGE})).startswith("failed parsing proposal: ")


@pytest.mark.parametrize("level", ["channel_header", "extension", "payload"])
async def test_a_level_below_that_cannot_be_read(desk: Desk, level: str) -> None:
    text = await refusal(desk, **{level: GARBAGE})
    assert text.startswith("error unmarshalling proposal: ")


async def test_an_input_that_cannot_be_read(desk: Desk) -> None:
    assert (await refusal(desk, input=GARBAGE)).startswith("error unmarshalling proposal: ")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"extension": b""}, "ChaincodeHeaderExtension.ChaincodeId is nil"),
        (
            {"extension": ChaincodeHeaderExtension(chaincode_id=ChaincodeId()).encode()},
            "ChaincodeHeaderExtension.ChaincodeId.Name is empty",
        ),
        ({"input": b""}, "chaincode invocation spec did not contain chaincode spec"),
        (
            {"input": ChaincodeInvocationSpec(chaincode_spec=ChaincodeSpec()).encode()},
            "chaincode input did not contain any input",
        ),
    ],
)
async def test_what_a_proposal_must_have(desk: Desk, changes: dict[str, bytes], text: str) -> None:
    assert await refusal(desk, **changes) == text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"type": HeaderType.MESSAGE}, "invalid header type 0"),
        ({"type": HeaderType.CONFIG_UPDATE}, "invalid header type 2"),
        ({"type": 4711}, "invalid header type 4711"),
        ({"epoch": 1}, "epoch is non-zero: 1"),
        ({"nonce": b""}, "nonce is empty"),
        ({"creator": b""}, "creator is empty"),
        ({"tx_id": ""}, "incorrectly computed txid '' -- expected "),
        ({"tx_id": "ab"}, "incorrectly computed txid 'ab' -- expected "),
        ({"signature": b""}, "empty signature bytes"),
        ({"signature": GARBAGE}, "access denied: channel [mychannel] creator org [Org1MSP]"),
        (
            {"creator": GARBAGE},
            "access denied: channel [mychannel] creator org unknown, creator is malformed",
        ),
        (
            {"creator": SerializedIdentity(mspid="Org7MSP", id_bytes=b"x").encode()},
            "access denied: channel [mychannel] creator org unknown, creator is malformed",
        ),
    ],
)
async def test_headers_and_creators(desk: Desk, changes: dict[str, object], text: str) -> None:
    assert (await refusal(desk, **changes)).startswith(f"error validating proposal: {text}")


async def test_a_type_that_clients_use_to_join_channels(desk: Desk) -> None:
    answer = await desk.endorser.process_proposal(
        Forged(desk.client, type=HeaderType.CONFIG).made()
    )
    assert answer.endorsement is not None


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"extension": b""}, {"input": b""}),
        ({"input": b""}, {"type": 0}),
        ({"type": 0}, {"epoch": 1}),
        ({"epoch": 1}, {"nonce": b""}),
        ({"nonce": b""}, {"creator": b""}),
        ({"creator": b""}, {"tx_id": "x"}),
        ({"tx_id": "x"}, {"signature": b""}),
        ({"signature": b""}, {"creator": b"x"}),
        ({"creator": b"x"}, {"signature": GARBAGE}),
    ],
)
async def test_the_order_of_the_checks(
    desk: Desk, first: dict[str, object], then: dict[str, object]
) -> None:
    alone, both = await refusal(desk, **first), await refusal(desk, **{**then, **first})
    assert alone.partition("expected")[0] == both.partition("expected")[0]


def test_a_proposal_without_bytes_has_no_header_to_be_read() -> None:
    with pytest.raises(ProposalRefused, match="ChaincodeId is nil"):
        preprocess.unpack(SignedProposal())


async def test_empty_bytes_are_refused_even_with_headers(desk: Desk) -> None:
    """They cannot come apart over the wire; whoever calls with both is checked all the same."""
    unpacked = preprocess.unpack(Forged(desk.client).made())
    empty = unpacked._replace(signed=SignedProposal(signature=b"s"))
    with pytest.raises(ProposalRefused, match="empty proposal bytes"):
        preprocess.check(empty, desk.world.channel.bundle.msps)


def of_another(forged: Forged, scene: Scene) -> bytes:
    return scene.user(1).sign(forged.proposal_bytes())


def high_s(forged: Forged, scene: Scene) -> bytes:
    r, s = utils.decode_dss_signature(forged.signer.sign(forged.proposal_bytes()))
    return utils.encode_dss_signature(r, ORDERS["secp256r1"] - s)


@pytest.mark.parametrize("sign", [of_another, high_s])
async def test_a_signature_that_is_not_the_creators(
    desk: Desk, scene: Scene, sign: Callable[[Forged, Scene], bytes]
) -> None:
    forged = Forged(desk.client)
    forged.signature = sign(forged, scene)
    with pytest.raises(ProposalRefused, match=r"access denied.*creator org \[Org1MSP\]$"):
        await desk.endorser.process_proposal(forged.made())


async def test_a_client_whose_certificate_has_ended(desk: Desk, scene: Scene) -> None:
    expired = expired_user(scene.network)
    assert await refusal(desk, signer=expired) == "proposal client identity expired"
    # That comes before everything else, the look for the channel and for an MSP included.
    text = await refusal(
        desk, signer=expired, channel_header=GARBAGE, payload=GARBAGE, signature=b""
    )
    assert text == "proposal client identity expired"
    assert text == await refusal(desk, signer=expired, channel_id="other")
    stranger = SerializedIdentity.decode(expired.creator)
    stranger.mspid = "Org7MSP"
    assert text == await refusal(desk, creator=stranger.encode())


async def test_a_channel_that_is_not_joined_is_an_answer(desk: Desk) -> None:
    forged = Forged(desk.client, channel_id="other", signature=b"", type=0)
    answer = await desk.endorser.process_proposal(forged.made())
    assert answer.response is not None
    assert (answer.response.status, answer.response.message) == (500, "channel 'other' not found")
    assert (answer.version, answer.payload, answer.endorsement) == (0, b"", None)


async def test_without_a_channel_the_peers_own_organisation_decides(
    desk: Desk, scene: Scene
) -> None:
    with pytest.raises(ProposalRefused, match="creator org unknown"):
        await desk.endorser.process_proposal(
            Forged(scene.user(1), channel_id="", extension=extension("cscc")).made()
        )
    answer = await desk.endorser.process_proposal(
        Forged(scene.user(0), channel_id="", extension=extension("cscc")).made()
    )
    assert answer.response is not None
    assert answer.response.status == 200


def extension(name: str) -> bytes:
    return ChaincodeHeaderExtension(chaincode_id=ChaincodeId(name=name)).encode()


@pytest.mark.parametrize("is_valid", [True, False])
async def test_a_transaction_that_is_committed_already(
    desk: Desk, world: World, is_valid: bool
) -> None:
    transaction = world.forged(writes(), *((0, 1) if is_valid else (0,)))
    [code] = await world.commit(transaction.made())
    assert (code is ValidationCode.VALID) == is_valid
    tx_id = sha256(transaction.nonce + desk.client.creator).hexdigest()
    text = await refusal(desk, nonce=transaction.nonce)
    assert text == f"duplicate transaction found [{tx_id}]. Creator [{desk.client.creator.hex()}]"
    # System chaincodes are no exception; the same id twice before it is committed is none either.
    assert text == await refusal(desk, nonce=transaction.nonce, extension=extension("qscc"))
    for name in (CC, "qscc"):
        labels = {"channel": CHANNEL, "chaincode": name}
        assert desk.counted.value("endorser_duplicate_transaction_failures", **labels) == 1
    again = Forged(desk.client).made()
    for _ in range(2):
        assert (await desk.endorser.process_proposal(again)).endorsement is not None


async def test_who_may_not_propose(desk: Desk, scene: Scene) -> None:
    """A peer is no client: the channel's writers are clients and administrators."""
    text = await refusal(desk, signer=scene.peer(0))
    assert text.startswith(
        "Failed evaluating policy on signed data during check policy on channel [mychannel] with "
        "policy [/Channel/Application/Writers]: ["
    )
    labels = {"channel": CHANNEL, "chaincode": CC}
    assert desk.counted.value("endorser_proposal_acl_failures", **labels) == 1
    forged = Forged(scene.peer(0), extension=extension("qscc"))
    answer = await desk.endorser.process_proposal(forged.made())
    assert answer.endorsement is not None, "system chaincodes check access by themselves"


async def test_a_channel_may_say_who_may_propose(desk: Desk, scene: Scene) -> None:
    config = scene.config()
    assert config.channel_group is not None
    application = config.channel_group.groups["Application"]
    lists = AcLs(acls={"peer/Propose": ApiResource(policy_ref="Admins")})
    application.values["ACLs"] = ConfigValue(value=encode(lists), mod_policy="Admins")
    desk.world.channel.bundle = Bundle(CHANNEL, config)
    with pytest.raises(AccessDenied) as caught:
        await desk.endorser.process_proposal(desk.signed())
    assert str(caught.value).startswith(
        "failed evaluating policy on signed data during check policy "
        "[/Channel/Application/Admins]: ["
    )


async def test_the_hash_of_a_proposal_leaves_out_what_is_transient(desk: Desk) -> None:
    forged = Forged(desk.client)
    plain = preprocess.unpack(forged.made())
    forged.payload = ChaincodeProposalPayload(input=INPUT, transient_map={"k": b"v"}).encode()
    transient = preprocess.unpack(forged.made())
    assert plain.proposal_hash == transient.proposal_hash
    assert transient.transient == {"k": b"v"}
    assert transient.spec_name == CC


def test_what_was_received_is_hashed() -> None:
    """Also what another encoder would have written otherwise."""
    content = ChaincodeInvocationSpec(chaincode_spec=ChaincodeSpec(input=ChaincodeInput())).encode()
    channel = b"\x08\x03\x08\x03" + ChannelHeader(extension=extension(CC)).encode()
    signature = b"\x12\x01n\x0a\x01c"
    header = Header(channel_header=channel, signature_header=signature).encode()
    payload = ChaincodeProposalPayload(input=content).encode()
    proposal = Proposal(header=header, payload=payload).encode()
    unpacked = preprocess.unpack(SignedProposal(proposal_bytes=proposal))
    expected = sha256(channel + signature + b"\x0a" + bytes([len(content)]) + content)
    assert unpacked.proposal_hash == expected.digest()
    assert unpacked.spec_name == ""


async def test_a_signature_is_verified_once(desk: Desk) -> None:
    signed = desk.signed()
    creator = desk.world.channel.bundle.msps.deserialize(desk.client.creator)
    verify, verified = creator.verify, []

    def count(data: bytes, signature: bytes) -> None:
        verified.append((data, signature))
        verify(data, signature)

    creator.verify = count
    answer = await desk.endorser.process_proposal(signed)
    assert answer.endorsement is not None
    assert verified == [(signed.proposal_bytes, signed.signature)]
