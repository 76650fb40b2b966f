"""A development network for tests: its configuration, who signs in it, and what they sign."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fabric_protos.codec import decode, encode
from fabric_protos.common import (
    Block,
    BlockData,
    BlockHeader,
    BlockMetadata,
    BlockMetadataIndex,
    ChannelHeader,
    Config,
    ConfigEnvelope,
    ConfigSignature,
    ConfigUpdate,
    ConfigUpdateEnvelope,
    Envelope,
    Header,
    HeaderType,
    LastConfig,
    Metadata,
    MetadataSignature,
    OrdererBlockMetadata,
    Payload,
    SignatureHeader,
)
from peer.channel.bundle import Bundle
from peer.channel.configtx import genesis_config
from peer.channel.network import Network, NetworkOrganisation
from peer.ledger.blocks import data_hash, header_bytes
from peer.msp.directory import load_signing_identity
from peer.msp.identity import SigningIdentity


class Scene:
    """A network with its identities; configurations handed out are copies."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.channel_id = network.channel_id

    def config(self) -> Config:
        genesis = self.network.genesis_block()
        assert genesis.data is not None
        return genesis_config(self.channel_id, decode(Envelope, genesis.data.data[0]))

    @cached_property
    def bundle(self) -> Bundle:
        return Bundle(self.channel_id, self.config())

    @cached_property
    def orderer(self) -> SigningIdentity:
        organisation = self.network.orderer
        return load_signing_identity(organisation.nodes[0].msp, organisation.msp_id)

    def admin(self, index: int = 0) -> SigningIdentity:
        return self._user(self.network.organisations[index], 0)

    def user(self, index: int = 0) -> SigningIdentity:
        return self._user(self.network.organisations[index], 1)

    @cached_property
    def orderer_admin(self) -> SigningIdentity:
        return self._user(self.network.orderer, 0)

    def peer(self, index: int = 0) -> SigningIdentity:
        organisation = self.network.organisations[index]
        return load_signing_identity(organisation.nodes[0].msp, organisation.msp_id)

    @staticmethod
    def _user(organisation: NetworkOrganisation, index: int) -> SigningIdentity:
        return load_signing_identity(organisation.users[index].msp, organisation.msp_id)


def expired_user(network: Network, index: int = 0) -> SigningIdentity:
    """Return a client of an organisation whose certificate has ended."""
    organisation = network.organisations[index]
    directory = organisation.directory / "ca"
    [certificate] = directory.glob("*.pem")
    authority = x509.load_pem_x509_certificate(certificate.read_bytes())
    authority_key = serialization.load_pem_private_key((directory / "priv_sk").read_bytes(), None)
    assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
    member = load_signing_identity(organisation.users[1].msp, organisation.msp_id)
    identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    issued = (
        x509.CertificateBuilder()
        .subject_name(member.certificate.subject)
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=2))
        .not_valid_after(now - timedelta(minutes=1))
        .add_extension(issuer, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return SigningIdentity(organisation.msp_id, issued, key)


def envelope(channel_id: str, kind: int, data: bytes) -> Envelope:
    header = Header(
        channel_header=encode(
            ChannelHeader(type=kind, channel_id=channel_id, timestamp=datetime.now(UTC))
        ),
        signature_header=encode(SignatureHeader(creator=b"somebody", nonce=b"n")),
    )
    return Envelope(payload=encode(Payload(header=header, data=data)), signature=b"its own")


def signed_update(update: ConfigUpdate, signers: Iterable[SigningIdentity]) -> Envelope:
    """Return a CONFIG_UPDATE envelope with these signatures in it."""
    data = encode(update)
    signatures = []
    for signer in signers:
        header = encode(SignatureHeader(creator=signer.creator, nonce=b"nonce"))
        signatures.append(ConfigSignature(header, signer.sign(header + data)))
    content = encode(ConfigUpdateEnvelope(config_update=data, signatures=signatures))
    return envelope(update.channel_id, HeaderType.CONFIG_UPDATE, content)


def config_transaction(channel_id: str, made: ConfigEnvelope) -> Envelope:
    return envelope(channel_id, HeaderType.CONFIG, encode(made))


def block(number: int, previous_hash: bytes, envelopes: Sequence[Envelope]) -> Block:
    data = BlockData(data=[encode(each) for each in envelopes])
    return Block(
        header=BlockHeader(number=number, previous_hash=previous_hash, data_hash=data_hash(data)),
        data=data,
        metadata=BlockMetadata(metadata=[b""] * len(BlockMetadataIndex)),
    )


VALUE = encode(OrdererBlockMetadata(last_config=LastConfig(index=0)))


def sign_block(made: Block, signers: Iterable[SigningIdentity]) -> Block:
    assert made.header is not None
    signatures = []
    for signer in signers:
        header = encode(SignatureHeader(creator=signer.creator, nonce=b"nonce"))
        signature = signer.sign(VALUE + header + header_bytes(made.header))
        signatures.append(MetadataSignature(signature_header=header, signature=signature))
    return with_signatures(made, signatures)


def with_signatures(made: Block, signatures: list[MetadataSignature]) -> Block:
    assert made.metadata is not None
    made.metadata.metadata[BlockMetadataIndex.SIGNATURES] = encode(Metadata(VALUE, signatures))
    return made
