"""May whoever signed a proposal use one of the peer's services?

Room:      peer.scc   (imports peer.channel, peer.msp; used by the system chaincodes and endorser)
Loop:      none; verifies one signature, about 0.1 ms
Lifetime:  peer
Fabric:    core/aclmgmt/defaultaclprovider.go, resourceprovider.go, core/policy/policy.go
           (release-2.5)
"""

from __future__ import annotations

from collections.abc import Callable

from fabric_protos.errors import DecodeError
from fabric_protos.stream import (
    ChaincodeInvocationSpec,
    ChaincodeProposalPayload,
    Header,
    Proposal,
    SignatureHeader,
    SignedProposal,
)
from peer.channel import acls
from peer.channel.acls import LocalPolicy
from peer.channel.channel import Channel
from peer.errors import AccessDenied, MembershipError, PolicyError
from peer.msp.identity import Identity
from peer.msp.msp import Msp
from peer.msp.policies import Policy, SignedData
from peer.msp.standard import Role, role_principal

_ROLES = {LocalPolicy.ADMINS: Role.ADMIN, LocalPolicy.MEMBERS: Role.MEMBER}


class AccessControl:
    """Asks a channel's policies, or the peer's own MSP, as the service demands.

    Args:
        channel: finds a joined channel, None where there is none of that name.
        local: the MSP of the peer's organisation.
    """

    def __init__(self, *, channel: Callable[[str], Channel | None], local: Msp) -> None:
        self._channel = channel
        self._local = local

    def check(self, resource: str, channel_id: str, signed: SignedProposal | None) -> None:
        """Check that who signed a proposal may use `resource` on a channel.

        Raises:
            AccessDenied: no, or not on this channel, or there is no such resource.
        """
        self.check_data(resource, channel_id, signed_data(signed))

    def check_data(self, resource: str, channel_id: str, data: SignedData) -> None:
        """Check that who signed a request of any other kind may use `resource` on a channel.

        Raises:
            AccessDenied: as of `check`.
        """
        if (local := acls.LOCAL.get(resource)) is not None:
            self.check_local(local, data)
            return
        channel = self._channel(channel_id)
        if channel is None:
            raise AccessDenied(f"Failed to get policy manager for channel [{channel_id}]")
        check_channel(channel, resource, data)

    def check_local(self, policy: LocalPolicy, data: SignedData) -> None:
        """Check that who signed a request is what the peer's own organisation asks for.

        Raises:
            AccessDenied: no.
        """
        during = f"during channelless check policy with policy [{policy.value}]"
        try:
            creator = self._local.deserialize(data.identity)
        except MembershipError as exc:
            raise AccessDenied(f"Failed deserializing proposal creator {during}: [{exc}]") from exc
        principal = role_principal(self._local.name, _ROLES[policy])
        if (reason := self._local.refusal(creator, principal)) is not None:
            raise AccessDenied(
                f"Failed verifying that proposal's creator satisfies local MSP principal {during}: "
                f"[{reason}]"
            )
        try:
            creator.verify(data.data, data.signature)
        except MembershipError as exc:
            raise AccessDenied(f"Failed verifying proposal signature {during}: [{exc}]") from exc


def check_channel(channel: Channel, resource: str, data: SignedData) -> None:
    """Check that a signature satisfies the policy a channel has over `resource`.

    Raises:
        AccessDenied: it does not, or there is no such resource.
    """
    _check(channel, resource, lambda policy: policy.evaluate([data]))


def check_signer(channel: Channel, resource: str, signer: Identity) -> None:
    """Do the same for one whose signature has been verified, by the channel's present MSPs.

    Raises:
        AccessDenied: as of `check_channel`.
    """
    _check(channel, resource, lambda policy: policy.evaluate_identities([signer]))


def _check(channel: Channel, resource: str, judge: Callable[[Policy], None]) -> None:
    bundle = channel.bundle
    try:
        path = bundle.acl(resource)
    except KeyError:
        raise AccessDenied(f"Unmapped policy for {resource}") from None
    try:
        judge(bundle.policy(path))
    except PolicyError as exc:
        if path == acls.DEFAULTS[resource]:
            which = (
                "Failed evaluating policy on signed data during check policy on channel "
                f"[{channel.channel_id}] with policy"
            )
        else:
            which = "failed evaluating policy on signed data during check policy"
        raise AccessDenied(f"{which} [{path}]: [{exc}]") from exc


def signed_data(signed: SignedProposal | None) -> SignedData:
    """Return who signed a proposal, and what.

    Raises:
        AccessDenied: there is no proposal, or it cannot be read.
    """
    if signed is None:
        raise AccessDenied("Invalid signed proposal, it must be different from nil")
    try:
        header = Header.decode(Proposal.decode(signed.proposal_bytes).header)
        creator = SignatureHeader.decode(header.signature_header).creator
    except DecodeError as exc:
        raise AccessDenied(f"Failing extracting proposal: [{exc}]") from exc
    return SignedData(signed.proposal_bytes, creator, signed.signature)


def asked_for(signed: SignedProposal | None) -> str:
    """Return the chaincode a proposal names; who is called by a chaincode finds that one's.

    Raises:
        AccessDenied: there is no proposal, or it cannot be read.
    """
    if signed is None:
        raise AccessDenied("Invalid signed proposal, it must be different from nil")
    try:
        payload = ChaincodeProposalPayload.decode(Proposal.decode(signed.proposal_bytes).payload)
        spec = ChaincodeInvocationSpec.decode(payload.input).chaincode_spec
    except DecodeError as exc:
        raise AccessDenied(f"Failing extracting proposal: [{exc}]") from exc
    return spec.chaincode_id.name if spec is not None and spec.chaincode_id is not None else ""
