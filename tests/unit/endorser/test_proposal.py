"""Proposals of the library: as a Fabric client would make them."""

from __future__ import annotations

import hashlib
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from fabric_protos.stream import (
    ChaincodeHeaderExtension,
    ChaincodeInput,
    ChaincodeInvocationSpec,
    ChaincodeProposalPayload,
    ChannelHeader,
    Header,
    Proposal,
    SerializedIdentity,
    SignatureHeader,
)
from peer.endorser.proposal import prepare_args, prepare_proposal
from peer.msp.identity import SigningIdentity

P256_ORDER = int("FFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551", 16)


@pytest.fixture(scope="module")
def identity() -> SigningIdentity:
    return SigningIdentity.self_signed("Org1MSP")


def certificate(identity: SigningIdentity) -> x509.Certificate:
    serialized = SerializedIdentity.decode(identity.creator)
    assert serialized.mspid == "Org1MSP"
    return x509.load_pem_x509_certificate(serialized.id_bytes)


def public_key(identity: SigningIdentity) -> ec.EllipticCurvePublicKey:
    key = certificate(identity).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key


def test_a_proposal_is_what_fabric_expects(identity: SigningIdentity) -> None:
    payload = ChaincodeInput(args=[b"put", b"\x00\xff"], is_init=True)
    before = time.time_ns()
    made = prepare_proposal(identity, "mychannel", "cc", payload, {"secret": b"s"})
    proposal = Proposal.decode(made.signed.proposal_bytes)
    header = Header.decode(proposal.header)
    channel = ChannelHeader.decode(header.channel_header)
    signature = SignatureHeader.decode(header.signature_header)

    assert (channel.type, channel.channel_id, channel.tx_id) == (3, "mychannel", made.tx_id)
    assert channel.epoch == 0
    stamp = channel.timestamp
    assert stamp is not None
    assert before <= stamp.seconds * 10**9 + stamp.nanos <= time.time_ns()
    assert (stamp.seconds, stamp.nanos) == (made.timestamp.seconds, made.timestamp.nanos)
    extension = ChaincodeHeaderExtension.decode(channel.extension)
    assert extension.chaincode_id is not None
    assert extension.chaincode_id.name == "cc"

    assert signature.creator == identity.creator
    assert len(signature.nonce) == 24
    digest = hashlib.sha256(signature.nonce + signature.creator).hexdigest()
    assert made.tx_id == digest

    body = ChaincodeProposalPayload.decode(proposal.payload)
    assert body.transient_map == {"secret": b"s"}
    spec = ChaincodeInvocationSpec.decode(body.input).chaincode_spec
    assert spec is not None
    assert spec.chaincode_id is not None
    assert spec.chaincode_id.name == "cc"
    assert spec.input == payload


def test_the_signature_fits_the_certificate(identity: SigningIdentity) -> None:
    signed = prepare_proposal(identity, "", "cscc", ChaincodeInput(), {}).signed
    public_key(identity).verify(signed.signature, signed.proposal_bytes, ec.ECDSA(hashes.SHA256()))
    issued = certificate(identity)
    issued.verify_directly_issued_by(issued)
    assert isinstance(public_key(identity).curve, ec.SECP256R1)


def test_every_signature_has_the_low_s(identity: SigningIdentity) -> None:
    """Fabric refuses the other half; without care every second one would be of it."""
    for number in range(40):
        data = str(number).encode()
        signature = identity.sign(data)
        _, s = utils.decode_dss_signature(signature)
        assert s <= P256_ORDER // 2
        public_key(identity).verify(signature, data, ec.ECDSA(hashes.SHA256()))


def test_every_proposal_is_another_transaction(identity: SigningIdentity) -> None:
    made = {prepare_proposal(identity, "c", "cc", ChaincodeInput(), {}).tx_id for _ in range(100)}
    assert len(made) == 100


def test_arguments() -> None:
    assert prepare_args([]) == []
    assert prepare_args(["ä", b"\xff", bytearray(b"x"), ""]) == [b"\xc3\xa4", b"\xff", b"x", b""]
