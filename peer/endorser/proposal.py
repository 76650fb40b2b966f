"""Make signed proposals for calls that come through the library.

Room:      peer.endorser   (imports cryptography, fabric_protos; used by app)
Loop:      none
Fabric:    protoutil/proputils.go `CreateChaincodeProposalWithTxIDNonceAndTransient` (release-2.5)
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import NameOID

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
    Timestamp,
)

ENDORSER_TRANSACTION = 3
NONCE_BYTES = 24
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class SigningIdentity:
    """A key and the certificate others know it by.

    Attributes:
        creator: marshalled ``msp.SerializedIdentity``.
    """

    def __init__(
        self, msp_id: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
    ) -> None:
        self._key = key
        self.creator = SerializedIdentity(
            mspid=msp_id, id_bytes=certificate.public_bytes(serialization.Encoding.PEM)
        ).encode()

    @classmethod
    def self_signed(cls, msp_id: str) -> SigningIdentity:
        """Make an identity for calls that come from this process and not over the network."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "client"),
                x509.NameAttribute(NameOID.COMMON_NAME, "embedded"),
            ]
        )
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=3650))
            .sign(key, hashes.SHA256())
        )
        return cls(msp_id, certificate, key)

    def sign(self, data: bytes) -> bytes:
        """Return an ECDSA signature over SHA-256, DER, with the low S that Fabric demands."""
        signature = self._key.sign(data, ec.ECDSA(hashes.SHA256()))
        r, s = utils.decode_dss_signature(signature)
        if s > _P256_ORDER // 2:
            signature = utils.encode_dss_signature(r, _P256_ORDER - s)
        return signature


class PreparedProposal(NamedTuple):
    """A proposal ready to be simulated."""

    tx_id: str
    timestamp: Timestamp
    signed: SignedProposal


def prepare_proposal(
    identity: SigningIdentity,
    channel_id: str,
    name: str,
    payload: ChaincodeInput,
    transient: Mapping[str, bytes],
) -> PreparedProposal:
    """Make and sign the proposal of one call; its transaction id is new."""
    nonce = os.urandom(NONCE_BYTES)
    tx_id = hashlib.sha256(nonce + identity.creator).hexdigest()
    now = time.time_ns()
    timestamp = Timestamp(seconds=now // 10**9, nanos=now % 10**9)
    chaincode_id = ChaincodeId(name=name)
    channel_header = ChannelHeader(
        type=ENDORSER_TRANSACTION,
        timestamp=timestamp,
        channel_id=channel_id,
        tx_id=tx_id,
        extension=ChaincodeHeaderExtension(chaincode_id=chaincode_id).encode(),
    )
    header = Header(
        channel_header=channel_header.encode(),
        signature_header=SignatureHeader(creator=identity.creator, nonce=nonce).encode(),
    )
    spec = ChaincodeSpec(chaincode_id=chaincode_id, input=payload)
    proposal = Proposal(
        header=header.encode(),
        payload=ChaincodeProposalPayload(
            input=ChaincodeInvocationSpec(chaincode_spec=spec).encode(),
            transient_map=dict(transient),
        ).encode(),
    ).encode()
    signed = SignedProposal(proposal_bytes=proposal, signature=identity.sign(proposal))
    return PreparedProposal(tx_id, timestamp, signed)


def prepare_args(args: Sequence[bytes | str]) -> list[bytes]:
    """Return the arguments of a call as bytes, text as UTF-8."""
    return [arg.encode() if isinstance(arg, str) else bytes(arg) for arg in args]
