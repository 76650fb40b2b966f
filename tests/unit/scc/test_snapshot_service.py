"""Who may ask for snapshots, and what a request must be."""

from __future__ import annotations

from typing import Any

import betterproto2
import pytest

from fabric_protos.codec import encode
from fabric_protos.common import SignatureHeader
from fabric_protos.protos import SignedSnapshotRequest, SnapshotQuery, SnapshotRequest
from peer.errors import CallRefused, Code
from peer.msp.identity import SigningIdentity
from peer.services.api import Caller, Unary
from peer.services.snapshots import methods
from tests.unit.scc.channels import CHANNEL, Site

METHODS = ("Generate", "Cancel", "QueryPendings")


async def call(site: Site, name: str, signed: SignedSnapshotRequest) -> Any:
    access = site.access(site.network.organisations[0])
    found = {method.path: method for method in methods(site.find, access)}
    method = found[f"/protos.Snapshot/{name}"]
    assert isinstance(method, Unary)
    return await method.call(method.decode(encode(signed)), Caller("client"))


def request(name: str, by: SigningIdentity, channel_id: str = CHANNEL, number: int = 9) -> bytes:
    header = SignatureHeader(creator=by.creator, nonce=b"nonce")
    message: betterproto2.Message
    if name == "QueryPendings":
        message = SnapshotQuery(signature_header=header, channel_id=channel_id)
    else:
        message = SnapshotRequest(
            signature_header=header, channel_id=channel_id, block_number=number
        )
    return encode(message)


def signed(content: bytes, by: SigningIdentity) -> SignedSnapshotRequest:
    return SignedSnapshotRequest(request=content, signature=by.sign(content))


async def refusal(site: Site, name: str, asked: SignedSnapshotRequest) -> str:
    with pytest.raises(CallRefused) as caught:
        await call(site, name, asked)
    assert caught.value.code is Code.UNKNOWN
    assert site.channel.ledger.snapshots.pending() == []
    return caught.value.message


async def test_an_administrator_asks(site: Site) -> None:
    admin = site.admin
    await call(site, "Generate", signed(request("Generate", admin), admin))
    answer = await call(site, "QueryPendings", signed(request("QueryPendings", admin), admin))
    assert answer.block_numbers == [9]
    await call(site, "Cancel", signed(request("Cancel", admin), admin))
    answer = await call(site, "QueryPendings", signed(request("QueryPendings", admin), admin))
    assert answer.block_numbers == []


@pytest.mark.parametrize("name", METHODS)
async def test_nobody_else_may(site: Site, name: str) -> None:
    for by in (site.user, site.other_admin, SigningIdentity.self_signed("Org1MSP")):
        told = await refusal(site, name, signed(request(name, by), by))
        assert "channelless check policy with policy [Admins]" in told
    forged = SignedSnapshotRequest(
        request=request(name, site.admin), signature=site.user.sign(request(name, site.admin))
    )
    assert "Failed verifying proposal signature" in await refusal(site, name, forged)


@pytest.mark.parametrize("name", METHODS)
async def test_what_is_no_request(site: Site, name: str) -> None:
    admin = site.admin
    told = await refusal(site, name, signed(b"\xff", admin))
    assert told.startswith("failed to unmarshal snapshot request: ")
    assert await refusal(site, name, signed(b"", admin)) == "missing signature header"
    told = await refusal(site, name, signed(request(name, admin, ""), admin))
    assert told == "missing channel ID"
    told = await refusal(site, name, signed(request(name, admin, "absent"), admin))
    assert told == "cannot find ledger for channel absent"


async def test_what_the_ledger_refuses(site: Site) -> None:
    await site.write("cc", {"a": b"1"})
    await site.write("cc", {"a": b"2"})
    told = await refusal(
        site, "Generate", signed(request("Generate", site.admin, number=1), site.admin)
    )
    assert told.startswith("requested snapshot for block number 1 cannot be less than the last")
    told = await refusal(site, "Cancel", signed(request("Cancel", site.admin), site.admin))
    assert told == "no snapshot request exists for block number 9"
