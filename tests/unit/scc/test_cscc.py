"""Joining channels, and asking for their configurations."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from fabric_protos.codec import decode, encode
from fabric_protos.common import Block, BlockData, Config
from fabric_protos.protos import ChannelQueryResponse, JoinBySnapshotStatus
from fabric_protos.stream import ChaincodeInput, SignedProposal
from peer.chaincode.transactions import TransactionParams
from peer.channel import network
from peer.endorser.proposal import prepare_proposal
from peer.errors import AccessDenied, ChannelExists, PeerError
from peer.ledger.blocks import header_of
from peer.msp.identity import SigningIdentity
from peer.scc.access import asked_for
from peer.scc.cscc import Cscc
from peer.scc.runner import SystemCall
from tests.unit.scc.channels import CHANNEL, Site

GARBAGE = b"\xff\xff\xff"


@dataclass
class Desk:
    """A cscc, and what it was told to join."""

    site: Site
    joined: list[Block] = field(default_factory=list)
    current: str = ""

    async def begin(self, directory: str) -> None:
        self.current = directory

    @property
    def cscc(self) -> Cscc:
        return Cscc(
            access=self.site.access(self.site.network.organisations[0]),
            channel=self.site.find,
            channels=lambda: [CHANNEL, "second"],
            join=self.join,
            snapshots=self,
        )

    async def join(self, block: Block) -> None:
        if self.joined:
            raise ChannelExists("second")
        self.joined.append(block)

    async def ask(
        self, *args: bytes | str, by: SigningIdentity | None = None, through: str = "cscc"
    ) -> bytes:
        arguments = [arg.encode() if isinstance(arg, str) else arg for arg in args]
        proposal = prepare_proposal(
            by or self.site.admin, "", through, ChaincodeInput(args=arguments), {}
        )
        params = TransactionParams(
            channel_id="", tx_id=proposal.tx_id, namespace="cscc", signed_proposal=proposal.signed
        )
        response = await self.cscc.invoke(SystemCall(params=params, args=arguments))
        assert response.status == 200
        return response.payload

    async def refusal(
        self, *args: bytes | str, by: SigningIdentity | None = None, through: str = "cscc"
    ) -> str:
        with pytest.raises(PeerError) as caught:
            await self.ask(*args, by=by, through=through)
        assert self.joined == []
        return str(caught.value)

    def genesis(self, channel_id: str = "second") -> Block:
        return network.new_channel(self.site.network, channel_id)


@pytest.fixture
async def desk(site: Site) -> Desk:
    return Desk(site)


async def test_the_channels(desk: Desk) -> None:
    found = decode(ChannelQueryResponse, await desk.ask("GetChannels", by=desk.site.user))
    assert [each.channel_id for each in found.channels] == [CHANNEL, "second"]
    text = await desk.refusal("GetChannels", by=desk.site.other_admin)
    assert text.startswith("access denied for [GetChannels]: ")


async def test_a_configuration_block(desk: Desk) -> None:
    await desk.site.write("cc", {"a": b"1"})
    expected = await desk.site.channel.ledger.block_by_number(0)
    assert expected is not None
    assert await desk.ask("GetConfigBlock", CHANNEL) == encode(expected)


async def test_a_configuration(desk: Desk) -> None:
    found = decode(Config, await desk.ask("GetChannelConfig", CHANNEL))
    assert found == desk.site.channel.bundle.config


@pytest.mark.parametrize("function", ["GetConfigBlock", "GetChannelConfig"])
async def test_who_may_not_read_a_configuration(desk: Desk, function: str) -> None:
    text = await desk.refusal(function, CHANNEL, by=SigningIdentity.self_signed("Org1MSP"))
    assert text.startswith(f"access denied for [{function}][mychannel]: ")
    assert await desk.ask(function, CHANNEL, by=desk.site.other_admin)
    text = await desk.refusal(function, "other")
    assert text == (
        f"access denied for [{function}][other]: Failed to get policy manager for channel [other]"
    )


async def test_joining(desk: Desk) -> None:
    block = desk.genesis()
    assert await desk.ask("JoinChain", encode(block)) == b""
    assert desk.joined == [block]
    with pytest.raises(ChannelExists, match=r"ledger \[second\] already exists"):
        await desk.ask("JoinChain", encode(block))


async def test_only_administrators_of_the_peers_organisation_join(desk: Desk) -> None:
    block = encode(desk.genesis())
    for by in (desk.site.user, desk.site.other_admin):
        text = await desk.refusal("JoinChain", block, by=by)
        assert text.startswith("access denied for [JoinChain][second]: ")


async def test_what_is_no_block_to_join_by(desk: Desk) -> None:
    text = await desk.refusal("JoinChain", GARBAGE)
    assert text.startswith("Failed to reconstruct the genesis block, ")
    text = await desk.refusal("JoinChain", b"")
    assert text.startswith('"JoinChain" request failed to extract channel id from the block due to')
    later = desk.genesis()
    header_of(later).number = 1
    text = await desk.refusal("JoinChain", encode(later), by=desk.site.user)
    assert text == (
        '"JoinChain" for channelID = second failed because of validation of configuration block, '
        "because of a channel is joined by its block 0"
    )
    empty = desk.genesis()
    empty.data = BlockData()
    assert "holds no envelope" in await desk.refusal("JoinChain", encode(empty))


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((), "Incorrect number of arguments, 0"),
        (("JoinChain",), "Incorrect number of arguments, 1"),
        (("Nonsense",), "Incorrect number of arguments, 1"),
        (("Nonsense", ""), "Requested function Nonsense not found."),
        ((b"\xff", ""), "Requested function \N{REPLACEMENT CHARACTER} not found."),
        (("getchannels", ""), "Requested function getchannels not found."),
    ],
)
async def test_refusals(desk: Desk, args: tuple[bytes | str, ...], text: str) -> None:
    assert await desk.refusal(*args) == text


async def test_a_call_by_another_chaincode(desk: Desk) -> None:
    text = await desk.refusal("Nonsense", "", through="cc")
    assert text == "Cannot invoke CSCC from another chaincode, original invocation for 'cc'"


def test_a_proposal_that_names_nothing() -> None:
    assert asked_for(SignedProposal()) == ""
    with pytest.raises(AccessDenied, match="must be different from nil"):
        asked_for(None)
    with pytest.raises(AccessDenied, match="Failing extracting proposal"):
        asked_for(SignedProposal(proposal_bytes=GARBAGE))


async def test_joining_by_a_snapshot(desk: Desk) -> None:
    status = decode(JoinBySnapshotStatus, await desk.ask("JoinBySnapshotStatus"))
    assert (status.in_progress, status.bootstrapping_snapshot_dir) == (False, "")
    assert await desk.ask("JoinChainBySnapshot", "/backup/mychannel/7") == b""
    status = decode(JoinBySnapshotStatus, await desk.ask("JoinBySnapshotStatus"))
    assert (status.in_progress, status.bootstrapping_snapshot_dir) == (True, "/backup/mychannel/7")
    text = await desk.refusal("JoinChain", encode(desk.genesis()))
    assert text.startswith("a ledger is being created from a snapshot at /backup/mychannel/7.")


async def test_who_may_not_join_by_a_snapshot(desk: Desk) -> None:
    for by in (desk.site.user, desk.site.other_admin):
        text = await desk.refusal("JoinChainBySnapshot", "/backup", by=by)
        assert text.startswith("access denied for [JoinChainBySnapshot]: ")
        text = await desk.refusal("JoinBySnapshotStatus", by=by)
        assert text.startswith("access denied for [JoinBySnapshotStatus]: ")
    text = await desk.refusal("JoinChainBySnapshot", "")
    assert text == "Cannot join the channel, no snapshot directory provided"
    assert desk.current == ""
