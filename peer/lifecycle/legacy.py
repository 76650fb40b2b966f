"""The package format before lifecycle v2: a deployment spec, plain or signed by its owners.

Room:      peer.lifecycle   (imports fabric_protos, packages, peer.errors; used by store)
Loop:      none; it blocks for large packages
Fabric:    core/common/ccprovider/cdspackage.go, sigcdspackage.go (release-2.5)
"""

from __future__ import annotations

import json
import re

from fabric_protos.codec import DecodeError, decode
from fabric_protos.common import ChannelHeader, Envelope, HeaderType, Payload
from fabric_protos.protos import (
    ChaincodeDeploymentSpec,
    ChaincodeSpecType,
    SignedChaincodeDeploymentSpec,
)
from peer.errors import PackageError
from peer.lifecycle.packages import Package, read_indexes

_NAME = re.compile(r"[A-Za-z0-9]+([-_][A-Za-z0-9]+)*")
_VERSION = re.compile(r"[A-Za-z0-9_.+-]+")


def read_deployment(data: bytes) -> Package:
    """Read a deployment spec: the plain form, or else the signed one.

    The owners' signatures are not checked here: they are for the policy of an instantiation.

    Raises:
        PackageError: it is neither, or is not acceptable.

    Source: `GetCCPackage`, core/common/ccprovider/ccprovider.go (release-2.5).
    """
    spec = _plain(data)
    if spec is None:
        spec = _signed(data)
    if spec is None:
        raise PackageError("it is neither a deployment spec nor a signed one")
    assert spec.chaincode_spec is not None
    assert spec.chaincode_spec.chaincode_id is not None
    identity = spec.chaincode_spec.chaincode_id
    if not _NAME.fullmatch(identity.name):
        raise PackageError(
            f"invalid chaincode name '{identity.name}'. Names can only consist of alphanumerics, "
            "'_', and '-' and can only begin with alphanumerics"
        )
    if not _VERSION.fullmatch(identity.version):
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


def _signed(data: bytes) -> ChaincodeDeploymentSpec | None:
    try:
        payload = decode(Payload, decode(Envelope, data).payload)
        header = payload.header
        if header is None:
            return None
        channel_header = decode(ChannelHeader, header.channel_header)
        if channel_header.type != HeaderType.CHAINCODE_PACKAGE:
            return None
        signed = decode(SignedChaincodeDeploymentSpec, payload.data)
    except DecodeError:
        return None
    return _plain(signed.chaincode_deployment_spec)
