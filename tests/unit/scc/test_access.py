"""Who may use which service."""

from __future__ import annotations

from typing import Any

import pytest

from fabric_protos.stream import ChaincodeInput, SignedProposal
from peer.endorser.proposal import prepare_proposal
from peer.errors import AccessDenied, ProposalRefused
from peer.msp.identity import SigningIdentity
from peer.scc.access import AccessControl
from tests.unit.scc.channels import CHANNEL, Site

PATH = "/Channel/Application/Org2/Admins"


def proposal(by: SigningIdentity, channel_id: str = CHANNEL) -> SignedProposal:
    return prepare_proposal(by, channel_id, "cc", ChaincodeInput(), {}).signed


def access(site: Site) -> AccessControl:
    return site.access(site.network.organisations[0])


def denied(site: Site, resource: str, channel_id: str, signed: SignedProposal | None) -> str:
    with pytest.raises(AccessDenied) as caught:
        access(site).check(resource, channel_id, signed)
    assert isinstance(caught.value, ProposalRefused)  # so that endorsers may just let it pass
    return str(caught.value)


async def test_the_channels_policies(site: Site) -> None:
    for user in (site.user, site.admin, site.other_admin):
        access(site).check("lscc/ChaincodeExists", CHANNEL, proposal(user))
    text = denied(site, "peer/Propose", CHANNEL, proposal(SigningIdentity.self_signed("Org1MSP")))
    assert text.startswith(
        "Failed evaluating policy on signed data during check policy on channel "
        f"[{CHANNEL}] with policy [/Channel/Application/Writers]: [/Channel/Application/Writers: "
        "implicit policy evaluation failed - 0 sub-policies were satisfied, but this policy "
        "requires 1 of the 'Writers' sub-policies to be satisfied"
    )
    text = denied(site, "peer/Propose", "elsewhere", proposal(site.user))
    assert text == "Failed to get policy manager for channel [elsewhere]"


async def test_a_channel_may_choose_other_policies(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    application = site.channel.bundle.application
    assert application is not None
    acls = {"peer/Propose": PATH, "lscc/Install": PATH}
    changed = application._replace(acls=acls)
    monkeypatch.setattr(site.channel.bundle, "application", changed)
    access(site).check("peer/Propose", CHANNEL, proposal(site.other_admin))
    text = denied(site, "peer/Propose", CHANNEL, proposal(site.admin))
    assert text.startswith(
        f"failed evaluating policy on signed data during check policy [{PATH}]: ["
    )
    access(site).check("lscc/Install", "", proposal(site.admin))  # this one it cannot


async def test_the_peers_own_members_and_administrators(site: Site) -> None:
    for user in (site.user, site.admin, site.identity):
        access(site).check("cscc/GetChannels", "", proposal(user, ""))
    access(site).check("cscc/JoinChain", "", proposal(site.admin, ""))
    text = denied(site, "cscc/JoinChain", "", proposal(site.user, ""))
    assert "with policy [Admins]: [" in text
    text = denied(site, "cscc/GetChannels", "", proposal(site.other_admin, ""))
    assert text.startswith(
        "Failed deserializing proposal creator during channelless check policy with policy "
        "[Members]: ["
    )


@pytest.mark.parametrize("resource", ["", "lscc", "lscc/Deploy", "_lifecycle/Other"])
async def test_what_is_no_service(site: Site, resource: str) -> None:
    text = denied(site, resource, CHANNEL, proposal(site.admin))
    assert text == f"Unmapped policy for {resource}"


@pytest.mark.parametrize("resource", ["lscc/Install", "peer/Propose"])
async def test_proposals_that_are_none(site: Site, resource: str) -> None:
    text = denied(site, resource, CHANNEL, None)
    assert text == "Invalid signed proposal, it must be different from nil"
    broken: Any = SignedProposal(proposal_bytes=b"\xff", signature=b"")
    assert denied(site, resource, CHANNEL, broken).startswith("Failing extracting proposal: [")
    signed = proposal(site.admin)
    forged = SignedProposal(proposal_bytes=signed.proposal_bytes + b"\x98\x06\x01", signature=b"x")
    assert denied(site, resource, CHANNEL, forged)
