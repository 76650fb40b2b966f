"""MSP directories, as cryptogen and Fabric CA's client write them.

Room:      peer.msp
Loop:      none; reads files, so call it in a worker thread
Fabric:    msp/configbuilder.go, bccsp/sw/fileks.go (release-2.5)
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import yaml
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from fabric_protos.msp import (
    FabricCryptoConfig,
    FabricMspConfig,
    FabricNodeOUs,
    FabricOuIdentifier,
)
from peer.errors import IdentityRefused, MspDirectoryError
from peer.msp.certificates import Certificate, CertificateProblem, decode_pem, read_certificate
from peer.msp.identity import SigningIdentity
from peer.msp.msp import Msp
from peer.msp.signatures import PrivateKey, PublicKey
from peer.msp.version import MspVersion

log = logging.getLogger("peer.msp")

_LARGEST_KEY_BYTES = 65_536
_NODE_UNITS = {
    "ClientOUIdentifier": "client_ou_identifier",
    "PeerOUIdentifier": "peer_ou_identifier",
    "AdminOUIdentifier": "admin_ou_identifier",
    "OrdererOUIdentifier": "orderer_ou_identifier",
}


class LocalMsp(NamedTuple):
    """The organisation of this peer, and who it is there."""

    msp: Msp
    identity: SigningIdentity


def load_local(
    directory: str | PathLike[str], msp_id: str, *, version: MspVersion = MspVersion.V1_4_3
) -> LocalMsp:
    """Load an MSP directory with a key.

    Raises:
        MspDirectoryError: as for `load_config` and `load_signing_identity`, or the directory's own
            authorities did not issue the certificate.
        MspRefused: what the directory says breaks a rule.
    """
    identity = load_signing_identity(directory, msp_id)
    msp = Msp(load_config(directory, msp_id), version=version)
    try:
        msp.deserialize(identity.creator)
    except IdentityRefused as exc:
        raise MspDirectoryError(str(Path(directory, "signcerts")), str(exc)) from exc
    return LocalMsp(msp, identity)


def load_config(directory: str | PathLike[str], msp_id: str) -> FabricMspConfig:
    """Return what *directory* says of the organisation *msp_id*; without its key.

    Files that are not PEM are left out, with a warning in the log.

    Raises:
        MspDirectoryError: a file is missing or cannot be used.
    """
    root = Path(directory)
    authorities = _pem_files(root / "cacerts")
    if not authorities:
        raise MspDirectoryError(str(root / "cacerts"), "no CA certificate; an MSP needs one")
    tls_authorities = _pem_files(root / "tlscacerts")
    config = FabricMspConfig(
        name=msp_id,
        root_certs=list(authorities.values()),
        intermediate_certs=list(_pem_files(root / "intermediatecerts").values()),
        admins=list(_pem_files(root / "admincerts").values()),
        revocation_list=list(_pem_files(root / "crls").values()),
        crypto_config=FabricCryptoConfig(
            signature_hash_family="SHA2", identity_identifier_hash_function="SHA256"
        ),
        tls_root_certs=list(tls_authorities.values()),
    )
    if tls_authorities:
        config.tls_intermediate_certs = list(_pem_files(root / "tlsintermediatecerts").values())
    if (root / "config.yaml").exists():
        _UnitsFile(root).read_into(config)
    return config


def load_signing_identity(directory: str | PathLike[str], msp_id: str) -> SigningIdentity:
    """Return the identity of ``signcerts`` with its key of ``keystore``.

    Raises:
        MspDirectoryError: a file is missing or cannot be used, no key fits the certificate, or the
            certificate has expired.
    """
    root = Path(directory)
    files = _pem_files(root / "signcerts")
    if not files:
        raise MspDirectoryError(str(root / "signcerts"), "no certificate of the peer itself")
    path, pem = next(iter(files.items()))
    try:
        certificate = read_certificate(pem)
    except CertificateProblem as exc:
        raise MspDirectoryError(str(path), str(exc)) from exc
    if certificate.not_after <= datetime.now(UTC):
        expiry = certificate.not_after.isoformat(sep=" ", timespec="seconds")
        raise MspDirectoryError(str(path), f"the certificate expired at {expiry}; enrol again")
    return SigningIdentity(msp_id, certificate.received, _find_key(root / "keystore", certificate))


def _find_key(keystore: Path, certificate: Certificate) -> PrivateKey:
    """Return the key of *certificate*: by the name of its file, or by looking into each."""
    public = certificate.key
    if not isinstance(public, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        raise MspDirectoryError(str(keystore), "the key of an identity must be ECDSA")
    named = keystore / f"{subject_key_id(public).hex()}_sk"
    try:
        others = sorted(path for path in keystore.iterdir() if path != named)
    except OSError as exc:
        raise MspDirectoryError(str(keystore), exc.strerror or str(exc)) from exc
    for path in (named, *others):
        key = _read_key(path)
        if key is not None and key.public_key() == public:
            return key
    raise MspDirectoryError(
        str(keystore), f"no file holds the private key of {certificate.name}, like {named.name}"
    )


def subject_key_id(key: PublicKey) -> bytes:
    """Return what Fabric names key files after: SHA-256 of the point, or of the Ed25519 key."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).digest()
    point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return hashlib.sha256(point).digest()


def _read_key(path: Path) -> PrivateKey | None:
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_KEY_BYTES:
            return None
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, TypeError, ValueError, UnsupportedAlgorithm) as exc:
        log.warning("%s is no private key: %s", path, exc)
        return None
    if isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        return key
    return None


def _pem_files(directory: Path) -> dict[Path, bytes]:
    """Return path -> content of the PEM files in *directory*, by name; none if it is not there."""
    if not directory.exists():
        return {}
    found = {}
    try:
        for path in sorted(directory.iterdir()):
            if path.is_dir():
                continue
            content = path.read_bytes()
            try:
                decode_pem(content)
            except CertificateProblem:
                log.warning("%s is left out: no PEM content", path)
            else:
                found[path] = content
    except OSError as exc:
        path_of = exc.filename or directory
        raise MspDirectoryError(str(path_of), exc.strerror or str(exc)) from exc
    return found


_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's takes a tenth of the time, where PyYAML has it."""


class _UnitsFile:
    """``config.yaml``: organisational units, and node OUs. Unknown keys do not matter."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = root / "config.yaml"

    def read_into(self, config: FabricMspConfig) -> None:
        try:
            content = yaml.load(self._path.read_bytes(), _Loader)
        except (OSError, yaml.YAMLError) as exc:
            raise self._error(str(exc)) from exc
        tree = self._mapping(content, "the file")
        units = tree.get("OrganizationalUnitIdentifiers") or []
        if not isinstance(units, list):
            raise self._error("OrganizationalUnitIdentifiers must be a list")
        for number, each in enumerate(units):
            where = f"OrganizationalUnitIdentifiers[{number}]"
            name, certificate = self._unit(each, where)
            try:
                pem = (self._root / certificate).read_bytes()
            except OSError as exc:
                raise self._error(f"{where}.Certificate {certificate}: {exc.strerror}") from exc
            config.organizational_unit_identifiers.append(
                FabricOuIdentifier(certificate=pem, organizational_unit_identifier=name)
            )
        nodes = self._mapping(tree.get("NodeOUs"), "NodeOUs")
        enable = nodes.get("Enable", False)
        if not isinstance(enable, bool):
            raise self._error(f"NodeOUs.Enable must be true or false, not {enable!r}")
        if enable:
            config.fabric_node_ous = FabricNodeOUs(enable=True, **dict(self._nodes(nodes)))

    def _nodes(self, nodes: dict[object, object]) -> Iterator[tuple[str, FabricOuIdentifier]]:
        for key, field in _NODE_UNITS.items():
            where = f"NodeOUs.{key}"
            name, certificate = self._unit(nodes.get(key), where)
            if not name:
                continue
            pem = b""
            if certificate:
                try:
                    pem = (self._root / certificate).read_bytes()
                except OSError as exc:
                    log.warning("%s: %s.Certificate is left out: %s", self._path, where, exc)
            yield field, FabricOuIdentifier(certificate=pem, organizational_unit_identifier=name)

    def _unit(self, value: object, where: str) -> tuple[str, str]:
        """Return name and path of the certificate of one unit."""
        unit = self._mapping(value, where)
        name = unit.get("OrganizationalUnitIdentifier") or ""
        certificate = unit.get("Certificate") or ""
        if not isinstance(name, str) or not isinstance(certificate, str):
            raise self._error(f"{where}: both values must be text")
        return name, certificate

    def _mapping(self, value: object, where: str) -> dict[object, object]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._error(f"{where} must have keys and values")
        return value

    def _error(self, reason: str) -> MspDirectoryError:
        return MspDirectoryError(str(self._path), reason)
