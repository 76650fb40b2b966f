"""Deployment specs that several owners sign.

Room:      peer.lifecycle   (imports legacy, peer.msp; used by cli)
Loop:      none; each signature takes about 0.05 ms
Fabric:    core/common/ccpackage/ccpackage.go (release-2.5)
"""

from __future__ import annotations

from fabric_protos.codec import decode, encode
from fabric_protos.common import ChannelHeader, Envelope, Header, HeaderType, Payload
from fabric_protos.errors import DecodeError
from fabric_protos.protos import Endorsement, SignedChaincodeDeploymentSpec
from peer.errors import PackageError
from peer.lifecycle.legacy import describe_deployment
from peer.msp.identity import SigningIdentity


def owned_package(spec: bytes, policy: bytes, owner: SigningIdentity | None) -> bytes:
    """Return a deployment spec in the form that owners sign.

    Args:
        policy: marshalled; who may instantiate it.
        owner: signs it at once.

    Raises:
        PackageError: it is no deployment spec.
    """
    describe_deployment(spec)
    signed = SignedChaincodeDeploymentSpec(
        chaincode_deployment_spec=spec, instantiation_policy=policy
    )
    if owner is not None:
        _sign(signed, owner)
    return _enveloped(signed)


def sign_package(data: bytes, owner: SigningIdentity) -> bytes:
    """Return a package of several owners with one more signature.

    Raises:
        PackageError: it is none.
    """
    try:
        signed = decode(
            SignedChaincodeDeploymentSpec, decode(Payload, decode(Envelope, data).payload).data
        )
        describe_deployment(signed.chaincode_deployment_spec)
    except (DecodeError, PackageError) as exc:
        raise PackageError(f"it is no package for owners to sign: {exc}") from exc
    _sign(signed, owner)
    return _enveloped(signed)


def _sign(signed: SignedChaincodeDeploymentSpec, owner: SigningIdentity) -> None:
    content = signed.chaincode_deployment_spec + signed.instantiation_policy + owner.creator
    endorsement = Endorsement(endorser=owner.creator, signature=owner.sign(content))
    signed.owner_endorsements.append(endorsement)


def _enveloped(signed: SignedChaincodeDeploymentSpec) -> bytes:
    header = Header(channel_header=encode(ChannelHeader(type=int(HeaderType.CHAINCODE_PACKAGE))))
    return encode(Envelope(payload=encode(Payload(header=header, data=encode(signed)))))
