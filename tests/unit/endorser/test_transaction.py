"""Transactions from endorsements, as a client puts them together."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes

from fabric_protos.codec import decode
from fabric_protos.common import Envelope, Payload
from fabric_protos.errors import DecodeError
from fabric_protos.protos import (
    ChaincodeActionPayload,
    Endorsement,
    ProposalResponse,
    Response,
    Transaction,
)
from fabric_protos.stream import (
    ChaincodeInput,
    ChaincodeProposalPayload,
    Header,
    Proposal,
    SignedProposal,
)
from peer.endorser.proposal import prepare_proposal
from peer.endorser.transaction import signed_transaction
from peer.errors import EndorsementsDiffer
from peer.msp.identity import SigningIdentity
from peer.msp.signatures import verifier


@pytest.fixture(scope="module")
def client() -> SigningIdentity:
    return SigningIdentity.self_signed("Org1MSP")


@pytest.fixture(scope="module")
def proposal(client: SigningIdentity) -> SignedProposal:
    called = ChaincodeInput(args=[b"put"])
    return prepare_proposal(client, "mychannel", "cc", called, {"secret": b"hidden"}).signed


def response(endorser: bytes, payload: bytes = b"result", status: int = 200) -> ProposalResponse:
    signature = b"signature of " + endorser
    return ProposalResponse(
        response=Response(status=status, message="so"),
        payload=payload,
        endorsement=Endorsement(endorser=endorser, signature=signature),
    )


def test_a_transaction_carries_what_was_asked_and_what_was_endorsed(
    client: SigningIdentity, proposal: SignedProposal
) -> None:
    made = signed_transaction(proposal, [response(b"one"), response(b"two")], client)
    envelope = decode(Envelope, made)
    payload = decode(Payload, envelope.payload)
    asked = Proposal.decode(proposal.proposal_bytes)
    header = Header.decode(asked.header)
    assert payload.header is not None
    assert payload.header.channel_header == header.channel_header
    assert payload.header.signature_header == header.signature_header

    [action] = decode(Transaction, payload.data).actions
    assert action.header == header.signature_header
    content = decode(ChaincodeActionPayload, action.payload)
    assert content.action is not None
    assert content.action.proposal_response_payload == b"result"
    assert [each.endorser for each in content.action.endorsements] == [b"one", b"two"]

    public = ChaincodeProposalPayload.decode(content.chaincode_proposal_payload)
    assert public.input == ChaincodeProposalPayload.decode(asked.payload).input
    assert public.transient_map == {}
    assert b"hidden" not in made

    key = client.certificate.public_key()
    verifier(key, hashes.SHA256())(envelope.payload, envelope.signature)  # type: ignore[arg-type]  # an EC key


def test_an_endorser_who_answers_twice_counts_once(
    client: SigningIdentity, proposal: SignedProposal
) -> None:
    again = response(b"one")
    assert again.endorsement is not None
    again.endorsement.signature = b"another"
    made = signed_transaction(proposal, [response(b"one"), again, response(b"two")], client)
    data = decode(Payload, decode(Envelope, made).payload).data
    content = decode(ChaincodeActionPayload, decode(Transaction, data).actions[0].payload)
    assert content.action is not None
    assert [(each.endorser, each.signature) for each in content.action.endorsements] == [
        (b"one", b"signature of one"),
        (b"two", b"signature of two"),
    ]


@pytest.mark.parametrize(
    ("responses", "text"),
    [
        ([response(b"one"), response(b"two", b"other")], "ProposalResponsePayloads do not match"),
        ([], "ProposalResponsePayloads do not match"),
        (
            [ProposalResponse(response=Response(status=399), payload=b"result")],
            "no response carries an endorsement",
        ),
        ([response(b"one"), response(b"two", status=400)], "error code 400, msg so"),
        ([response(b"one", status=199)], "error code 199, msg so"),
        ([ProposalResponse()], "error code 0"),
    ],
    ids=["differ", "none", "not endorsed", "400", "199", "empty"],
)
def test_answers_that_make_no_transaction(
    client: SigningIdentity,
    proposal: SignedProposal,
    responses: list[ProposalResponse],
    text: str,
) -> None:
    with pytest.raises(EndorsementsDiffer, match=text):
        signed_transaction(proposal, responses, client)


def test_a_proposal_that_cannot_be_read(client: SigningIdentity) -> None:
    with pytest.raises(DecodeError):
        signed_transaction(SignedProposal(proposal_bytes=b"\xff"), [response(b"one")], client)
