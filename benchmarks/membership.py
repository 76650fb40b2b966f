"""Signatures, identities and policies: what they cost beyond `cryptography` itself.

Room:      benchmarks   (imports peer.channel.material, peer.msp)
Loop:      none
Lifetime:  one process
Fabric:    none

Ratios are to one ECDSA verification, or signature, by `cryptography` alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from measure import CPU, YARDSTICK, Row, Samples, main, pin

from fabric_protos.msp import FabricMspConfig, FabricNodeOUs, FabricOuIdentifier
from peer.channel.material import Authority
from peer.msp.dsl import parse_policy
from peer.msp.identity import SigningIdentity
from peer.msp.manager import MspManager
from peer.msp.msp import Msp, MspVersion
from peer.msp.policies import SignedData, from_envelope

DATA = b"x" * 2_000
"""About the size of a proposal response."""
ORGANISATIONS = ("Org1MSP", "Org2MSP", "Org3MSP")
REPEATED = 100
SIGN, VERIFY = "sign, cryptography", "verify, cryptography"


def rows(quick: bool) -> list[Row]:
    """Measure what one endorsement, and one transaction with three, take."""
    pin()
    samples = Samples()
    compared = operations()
    for _ in range(5 if quick else 100):
        samples.yardstick()
        for name, operation in compared.items():
            samples.add(name, _seconds(operation))
    rows = [
        samples.row(name, CPU, to=SIGN if name.startswith("sign") else VERIFY) for name in compared
    ]
    return [*rows, samples.row(YARDSTICK, CPU)]


def operations() -> dict[str, Callable[[], object]]:
    """Return what is measured: with what has been seen before, and with what has not."""
    authorities = {name: Authority(f"ca of {name}", name) for name in ORGANISATIONS}
    msps = {name: _msp(name, authority) for name, authority in authorities.items()}
    manager = MspManager(msps.values())
    signers = [_signer(name, authority) for name, authority in authorities.items()]
    signed = [SignedData(DATA, each.creator, each.sign(DATA)) for each in signers]
    first, data, signature = signers[0], *signed[0][1:]
    identity = manager.deserialize(data)
    key = first.certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise RuntimeError("another kind of key was issued")
    private = ec.generate_private_key(ec.SECP256R1())
    algorithm = ec.ECDSA(hashes.SHA256())
    both = from_envelope(
        parse_policy("OutOf(2, 'Org1MSP.peer', 'Org2MSP.peer', 'Org3MSP.peer')"), manager
    )

    def cold() -> None:
        msp = msps["Org1MSP"]
        msp._read.cache_clear()
        msp.validate(msp.deserialize(data))

    return {
        SIGN: lambda: private.sign(DATA, algorithm),
        "sign": lambda: first.sign(DATA),
        VERIFY: lambda: key.verify(signature, DATA, algorithm),
        "verify": lambda: identity.verify(DATA, signature),
        "identity, seen before": lambda: manager.deserialize(bytes(bytearray(data))),
        "identity, new: read, chain, validity": cold,
        "policy 2 of 3, 3 signatures": lambda: both.evaluate(signed),
        "policy 2 of 3, signatures verified": lambda: both.evaluate_identities(
            [manager.deserialize(each.identity) for each in signed]
        ),
    }


def _msp(name: str, authority: Authority) -> Msp:
    peers = FabricOuIdentifier(organizational_unit_identifier="peer")
    admins = FabricOuIdentifier(organizational_unit_identifier="admin")
    units = FabricNodeOUs(enable=True, peer_ou_identifier=peers, admin_ou_identifier=admins)
    config = FabricMspConfig(name=name, root_certs=[authority.certificate], fabric_node_ous=units)
    return Msp(config, version=MspVersion.V1_4_3)


def _signer(name: str, authority: Authority) -> SigningIdentity:
    issued = authority.issue_identity("peer0", "peer")
    key = serialization.load_pem_private_key(issued.key, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise RuntimeError("another kind of key was issued")
    return SigningIdentity(name, x509.load_pem_x509_certificate(issued.certificate), key)


def _seconds(operation: Callable[[], object]) -> float:
    began = time.process_time()
    for _ in range(REPEATED):
        operation()
    return (time.process_time() - began) / REPEATED


if __name__ == "__main__":
    main(rows)
