"""The package format before lifecycle v2: a deployment spec, plain or signed by its owners.

Room:      peer.lifecycle   (imports fabric_protos, packages, peer.errors; used by store and lscc)
Loop:      none; it blocks for large packages
Fabric:    core/common/ccprovider/cdspackage.go, sigcdspackage.go (release-2.5)
"""

from __future__ import annotations

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from fabric_protos.codec import DecodeError, decode, encode
from fabric_protos.common import ChannelHeader, Envelope, HeaderType, Payload
from fabric_protos.protos import (
    CdsData,
    ChaincodeDeploymentSpec,
    ChaincodeId,
    ChaincodeSpec,
    ChaincodeSpecType,
    SignedChaincodeDeploymentSpec,
)
from peer.errors import PackageError
from peer.lifecycle import archive
from peer.lifecycle.packages import Package, code_files, read_indexes

NAME = re.compile(r"[A-Za-z0-9]+([-_][A-Za-z0-9]+)*")
VERSION = re.compile(r"[A-Za-z0-9_.+-]+")

_TYPES = {
    "golang": ChaincodeSpecType.GOLANG,
    "node": ChaincodeSpecType.NODE,
    "java": ChaincodeSpecType.JAVA,
}
_SIGNATURE_HASH = bytes([3 << 3 | 2, 32])
"""Begins the third field, 32 bytes, that the fingerprint of a signed package has besides."""


class Deployment(NamedTuple):
    """What a channel's definition says of a deployment spec, and what else it tells.

    Attributes:
        data: marshalled hashes of code, identity and, where its owners signed it, of what they
            signed; equal on every peer that has the same package.
        id: one hash over these.
        instantiation_policy: marshalled, as its owners signed it; empty if they did not.
    """

    name: str
    version: str
    path: str
    data: bytes
    id: bytes
    instantiation_policy: bytes


def describe_deployment(data: bytes) -> Deployment:
    """Return the fingerprint of a deployment spec, plain or signed.

    Raises:
        PackageError: it is neither.

    Source: `CDSPackage.getCDSData`, core/common/ccprovider/cdspackage.go, sigcdspackage.go
    (release-2.5).
    """
    spec, signed = _read(data)
    assert spec.chaincode_spec is not None
    assert spec.chaincode_spec.chaincode_id is not None
    identity = spec.chaincode_spec.chaincode_id
    code = sha256(spec.code_package).digest()
    metadata = sha256(identity.name.encode() + identity.version.encode()).digest()
    hashes, content = code + metadata, encode(CdsData(hash=code, metadatahash=metadata))
    if signed is not None:
        endorsers = (each.endorser for each in signed.owner_endorsements)
        signature = sha256(b"".join((signed.instantiation_policy, *endorsers))).digest()
        hashes += signature
        content += _SIGNATURE_HASH + signature
    return Deployment(
        name=identity.name,
        version=identity.version,
        path=identity.path,
        data=content,
        id=sha256(hashes).digest(),
        instantiation_policy=b"" if signed is None else signed.instantiation_policy,
    )


def pack_deployment(directory: Path, kind: str, name: str, version: str) -> bytes:
    """Return a deployment spec of a directory of code; the same content gives the same bytes.

    Raises:
        PackageError: the old lifecycle has no such type, or an index is no index.
        OSError: something cannot be read.
    """
    spec = ChaincodeSpec(type=spec_type(kind), chaincode_id=ChaincodeId(name=name, version=version))
    code = archive.pack(code_files(directory))
    read_indexes(code)
    return encode(ChaincodeDeploymentSpec(chaincode_spec=spec, code_package=code))


def spec_type(kind: str) -> ChaincodeSpecType:
    """Return the old lifecycle's number for a type of code.

    Raises:
        PackageError: it has none; only _lifecycle takes this type.
    """
    try:
        return _TYPES[kind]
    except KeyError:
        known = ", ".join(_TYPES)
        raise PackageError(f"lscc deploys {known}; {kind} needs a channel with V2_0") from None


def deployment_spec(data: bytes) -> bytes:
    """Return the plain form of a deployment spec, code included, as it was packed.

    Raises:
        PackageError: it is neither plain nor signed.
    """
    _, signed = _read(data)
    return data if signed is None else signed.chaincode_deployment_spec


def read_deployment(data: bytes) -> Package:
    """Read a deployment spec: the plain form, or else the signed one.

    The owners' signatures are not checked here: they are for the policy of an instantiation.

    Raises:
        PackageError: it is neither, or is not acceptable.

    Source: `GetCCPackage`, core/common/ccprovider/ccprovider.go (release-2.5).
    """
    spec, _ = _read(data)
    assert spec.chaincode_spec is not None
    assert spec.chaincode_spec.chaincode_id is not None
    identity = spec.chaincode_spec.chaincode_id
    if not NAME.fullmatch(identity.name):
        raise PackageError(
            f"invalid chaincode name '{identity.name}'. Names can only consist of alphanumerics, "
            "'_', and '-' and can only begin with alphanumerics"
        )
    if not VERSION.fullmatch(identity.version):
        raise PackageError(
            f"invalid chaincode version '{identity.version}'. Versions can only consist of "
            "alphanumerics, '_',  '-', '+', and '.'"
        )
    kind = ChaincodeSpecType(spec.chaincode_spec.type).name or str(int(spec.chaincode_spec.type))
    metadata = {"path": identity.path, "type": kind, "label": identity.name}
    return Package(
        ccid=f"{identity.name}:{identity.version}",
        label=identity.name,
        type=kind.lower(),
        module=identity.path,
        metadata=json.dumps(metadata, separators=(",", ":")).encode(),
        code=spec.code_package,
        indexes=read_indexes(spec.code_package) if spec.code_package else {},
    )


def _plain(data: bytes) -> ChaincodeDeploymentSpec | None:
    """Read the plain form; None if what makes it one is not there."""
    try:
        spec = decode(ChaincodeDeploymentSpec, data)
    except DecodeError:
        return None
    inner = spec.chaincode_spec
    # An envelope can look like a deployment spec without a chaincode.
    return spec if inner is not None and inner.chaincode_id is not None else None


def _read(
    data: bytes,
) -> tuple[ChaincodeDeploymentSpec, SignedChaincodeDeploymentSpec | None]:
    """Return a deployment spec, and what its owners signed if they did."""
    spec, signed = _plain(data), None
    if spec is None:
        signed = _signed(data)
        spec = None if signed is None else _plain(signed.chaincode_deployment_spec)
    if spec is None:
        raise PackageError("it is neither a deployment spec nor a signed one")
    return spec, signed


def _signed(data: bytes) -> SignedChaincodeDeploymentSpec | None:
    try:
        payload = decode(Payload, decode(Envelope, data).payload)
        header = payload.header
        if header is None:
            return None
        channel_header = decode(ChannelHeader, header.channel_header)
        if channel_header.type != HeaderType.CHAINCODE_PACKAGE:
            return None
        return decode(SignedChaincodeDeploymentSpec, payload.data)
    except DecodeError:
        return None
