"""Is it a transaction, and by whom it claims to be? Each refusal with its code."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from fabric_protos.codec import decode, encode
from fabric_protos.common import Envelope, Header, HeaderType, Payload
from fabric_protos.msp import FabricMspConfig, MspConfig
from fabric_protos.protos import (
    ChaincodeActionPayload,
    ProposalResponsePayload,
    Transaction,
)
from fabric_protos.stream import SerializedIdentity, SignatureHeader
from peer.channel.bundle import Bundle
from peer.ledger.api import ValidationCode as Code
from peer.msp.identity import SigningIdentity
from peer.msp.signatures import ORDERS
from tests.unit.channel.networks import Scene, expired_user
from tests.unit.validation.forging import CHANNEL, GARBAGE, Forged, World, writes

Forge = Callable[[Forged], None]


def changed(**values: object) -> Forge:
    """Return what sets attributes of a transaction."""

    def change(transaction: Forged) -> None:
        for name, value in values.items():
            setattr(transaction, name, value)

    return change


async def test_a_transaction_as_it_must_be_is_valid(world: World) -> None:
    assert await world.judge(world.made(writes())) == [Code.VALID]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (GARBAGE, Code.INVALID_OTHER_REASON),
        (b"", Code.BAD_COMMON_HEADER),
        (encode(Envelope(payload=GARBAGE, signature=b"s")), Code.BAD_PAYLOAD),
        (encode(Envelope(payload=encode(Payload(data=b"d")))), Code.BAD_COMMON_HEADER),
    ],
    ids=["garbage", "nothing", "garbage in it", "no header"],
)
async def test_an_envelope_that_is_none(world: World, data: bytes, code: Code) -> None:
    assert await world.judge(data, world.made(writes())) == [code, Code.VALID]


@pytest.mark.parametrize(
    "forge",
    [
        changed(channel_header=GARBAGE),
        changed(signature_header=GARBAGE),
        changed(type=HeaderType.MESSAGE),
        changed(type=HeaderType.DELIVER_SEEK_INFO),
        changed(type=4711),
        changed(epoch=1),
        changed(nonce=b""),
        changed(creator=b""),
        changed(header=Header()),
    ],
    ids=[
        "garbage channel header",
        "garbage signature header",
        "message",
        "request for blocks",
        "unknown type",
        "epoch",
        "no nonce",
        "no creator",
        "empty header",
    ],
)
async def test_a_common_header_that_is_none(world: World, forge: Forge) -> None:
    transaction = world.forged(writes())
    forge(transaction)
    assert await world.judge(transaction.made()) == [Code.BAD_COMMON_HEADER]


def with_revoked(scene: Scene, revoked: SigningIdentity) -> Bundle:
    """Return a configuration in which Org1 has revoked somebody's certificate."""
    directory = scene.network.organisations[0].directory / "ca"
    [certificate] = directory.glob("*.pem")
    authority = x509.load_pem_x509_certificate(certificate.read_bytes())
    key = serialization.load_pem_private_key((directory / "priv_sk").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    now = datetime.now(UTC)
    entry = x509.RevokedCertificateBuilder(revoked.certificate.serial_number, now).build()
    extension = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(extension)
    crl = (
        x509.CertificateRevocationListBuilder(authority.subject, now, now + timedelta(days=1))
        .add_revoked_certificate(entry)
        .add_extension(issuer, critical=False)
        .sign(key, hashes.SHA256())
    )
    config = scene.config()
    assert config.channel_group is not None
    value = config.channel_group.groups["Application"].groups["Org1"].values["MSP"]
    msp = decode(MspConfig, value.value)
    members = decode(FabricMspConfig, msp.config)
    members.revocation_list = [crl.public_bytes(serialization.Encoding.PEM)]
    msp.config = encode(members)
    value.value = encode(msp)
    return Bundle(CHANNEL, config)


async def test_the_end_of_a_certificate_does_not_count(world: World) -> None:
    """A block does not tell when it was; endorsers and orderers look at the end, in time."""
    transaction = world.forged(writes())
    transaction.signer = expired_user(world.scene.network)
    assert await world.judge(transaction.made()) == [Code.VALID]


def signed_by_another(transaction: Forged, scene: Scene) -> bytes:
    payload = transaction.payload()
    return encode(Envelope(payload=payload, signature=scene.user(1).sign(payload)))


def signed_with_high_s(transaction: Forged, scene: Scene) -> bytes:
    payload = transaction.payload()
    r, s = utils.decode_dss_signature(transaction.signer.sign(payload))
    signature = utils.encode_dss_signature(r, ORDERS["secp256r1"] - s)
    return encode(Envelope(payload=payload, signature=signature))


def changed_after_signing(transaction: Forged, scene: Scene) -> bytes:
    signature = transaction.signer.sign(transaction.payload())
    transaction.results = writes(value=b"more")
    return encode(Envelope(payload=transaction.payload(), signature=signature))


def unsigned(transaction: Forged, scene: Scene) -> bytes:
    return encode(Envelope(payload=transaction.payload()))


def of_another_channel(transaction: Forged, scene: Scene) -> bytes:
    transaction.channel_id = "otherchannel"
    return transaction.made()


def of_unknown_organisation(transaction: Forged, scene: Scene) -> bytes:
    transaction.signer = SigningIdentity.self_signed("Org3MSP")
    return transaction.made()


def of_no_certificate_of_the_organisation(transaction: Forged, scene: Scene) -> bytes:
    transaction.signer = SigningIdentity.self_signed("Org1MSP")
    return transaction.made()


def by_nobody(transaction: Forged, scene: Scene) -> bytes:
    transaction.creator = GARBAGE
    return transaction.made()


def by_garbage(transaction: Forged, scene: Scene) -> bytes:
    transaction.creator = SerializedIdentity(mspid="Org1MSP", id_bytes=GARBAGE).encode()
    return transaction.made()


@pytest.mark.parametrize(
    "forge",
    [
        signed_by_another,
        signed_with_high_s,
        changed_after_signing,
        unsigned,
        of_another_channel,
        of_unknown_organisation,
        of_no_certificate_of_the_organisation,
        by_nobody,
        by_garbage,
    ],
    ids=lambda forge: forge.__name__.replace("_", " "),
)
async def test_a_creator_who_is_not(
    world: World, scene: Scene, forge: Callable[[Forged, Scene], bytes]
) -> None:
    transaction = forge(world.forged(writes()), scene)
    assert await world.judge(transaction) == [Code.BAD_CREATOR_SIGNATURE]


async def test_a_revoked_creator(world: World, scene: Scene) -> None:
    """One whose certificate the organisation issued, but no longer stands for."""
    revoked = world.scene.user(0)
    world.channel.bundle = with_revoked(scene, revoked)
    assert await world.judge(world.made(writes())) == [Code.BAD_CREATOR_SIGNATURE]
    other = world.forged(writes())
    other.signer = scene.user(1)
    assert await world.judge(other.made()) == [Code.VALID]


async def test_what_was_found_right_is_judged_by_the_configuration_that_holds(
    world: World, scene: Scene
) -> None:
    transaction = world.made(writes())
    before = world.channel.bundle
    for revoked, code in (
        (scene.user(0), Code.BAD_CREATOR_SIGNATURE),
        (scene.peer(0), Code.ENDORSEMENT_POLICY_FAILURE),
    ):
        world.channel.bundle = before
        assert await world.judge(transaction) == [Code.VALID]
        world.channel.bundle = with_revoked(scene, revoked)
        assert await world.judge(transaction) == [code]


async def test_a_changed_byte_anywhere_is_noticed_after_the_right_one_was_seen(
    world: World,
) -> None:
    transaction = world.made(writes())
    assert await world.judge(transaction) == [Code.VALID]
    changed = [
        transaction[:at] + bytes([transaction[at] ^ 1 << at % 8]) + transaction[at + 1 :]
        for at in range(len(transaction))
    ]
    assert Code.VALID not in await world.judge(*changed)
    assert await world.judge(transaction) == [Code.VALID]


@pytest.mark.parametrize("tx_id", ["", "0" * 64, None], ids=["none", "another", "upper case"])
async def test_an_id_that_is_not_the_transactions(world: World, tx_id: str | None) -> None:
    transaction = world.forged(writes())
    if tx_id is None:
        tx_id = sha256(transaction.nonce + transaction.signer.creator).hexdigest().upper()
    transaction.tx_id = tx_id
    assert await world.judge(transaction.made()) == [Code.BAD_PROPOSAL_TXID]


def twice(transaction: Forged) -> None:
    transaction.data = encode(Transaction(actions=[transaction.transaction_action()] * 2))


def of_another_proposal(transaction: Forged) -> None:
    """The endorsement is genuine, but one of another transaction of the same client."""
    other = Forged(
        signer=transaction.signer, endorsers=transaction.endorsers, results=transaction.results
    )
    transaction.action_payload = other.transaction_action().payload


@pytest.mark.parametrize(
    "forge",
    [
        changed(data=GARBAGE),
        changed(data=b""),
        twice,
        changed(action_header=GARBAGE),
        changed(action_header=SignatureHeader(creator=b"c").encode()),
        changed(action_header=SignatureHeader(nonce=b"n").encode()),
        changed(action_payload=GARBAGE),
        changed(action_payload=encode(ChaincodeActionPayload())),
        changed(response_payload=GARBAGE),
        changed(response_payload=encode(ProposalResponsePayload())),
        changed(proposal_hash=bytes(32)),
        of_another_proposal,
    ],
    ids=[
        "garbage",
        "no action",
        "two actions",
        "garbage action header",
        "action without nonce",
        "action without creator",
        "garbage action",
        "empty action",
        "garbage response",
        "empty response",
        "hash",
        "another proposal",
    ],
)
async def test_what_is_no_endorser_transaction(world: World, forge: Forge) -> None:
    transaction = world.forged(writes())
    forge(transaction)
    codes = await world.judge(transaction.made(), world.made(writes()))
    assert codes == [Code.INVALID_ENDORSER_TRANSACTION, Code.VALID]


async def test_the_action_may_have_a_header_of_its_own(world: World) -> None:
    transaction = world.forged(writes())
    other = SignatureHeader(creator=world.scene.user(1).creator, nonce=b"another").encode()
    transaction.action_header = other
    assert await world.judge(transaction.made()) == [Code.VALID]


async def test_an_update_that_no_orderer_has_turned_into_a_configuration(world: World) -> None:
    transaction = world.forged(writes())
    transaction.type = HeaderType.CONFIG_UPDATE
    assert await world.judge(transaction.made()) == [Code.UNSUPPORTED_TX_PAYLOAD]
