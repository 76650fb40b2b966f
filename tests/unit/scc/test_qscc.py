"""Queries of blocks and transactions."""

from __future__ import annotations

import pytest

from fabric_protos.codec import decode, encode
from fabric_protos.common import Block, BlockchainInfo
from fabric_protos.protos import ProcessedTransaction
from fabric_protos.stream import ChaincodeInput
from peer.chaincode.transactions import TransactionParams
from peer.endorser.proposal import prepare_proposal
from peer.errors import AccessDenied, PeerError
from peer.events.filtered import transactions
from peer.ledger.blocks import header_hash, header_of
from peer.msp.identity import SigningIdentity
from peer.scc.qscc import Qscc
from peer.scc.runner import SystemCall
from tests.unit.scc.channels import CHANNEL, Site

LAST = str(2**64 - 1)


@pytest.fixture
async def filled(site: Site) -> Site:
    """A ledger of three blocks."""
    await site.write("cc", {"a": b"1"})
    await site.write("cc", {"b": b"2"})
    return site


def qscc(site: Site) -> Qscc:
    return Qscc(access=site.access(site.network.organisations[0]), channel=site.find)


async def ask(
    site: Site, *args: bytes | str, by: SigningIdentity | None = None, through: str = "qscc"
) -> bytes:
    """Ask as it is done on a channel: without a simulator."""
    arguments = [arg.encode() if isinstance(arg, str) else arg for arg in args]
    proposal = prepare_proposal(
        by or site.user, CHANNEL, through, ChaincodeInput(args=arguments), {}
    )
    params = TransactionParams(
        channel_id=CHANNEL,
        tx_id=proposal.tx_id,
        namespace="qscc",
        signed_proposal=proposal.signed,
    )
    response = await qscc(site).invoke(SystemCall(params=params, args=arguments))
    assert response.status == 200
    return response.payload


async def refusal(site: Site, *args: bytes | str, through: str = "qscc") -> str:
    with pytest.raises(PeerError) as caught:
        await ask(site, *args, through=through)
    return str(caught.value)


async def block(site: Site, number: int) -> Block:
    found = await site.channel.ledger.block_by_number(number)
    assert found is not None
    return found


async def test_the_state_of_a_chain(filled: Site) -> None:
    info = decode(BlockchainInfo, await ask(filled, "GetChainInfo", CHANNEL))
    last, before = header_of(await block(filled, 2)), header_of(await block(filled, 1))
    assert info.height == 3
    assert info.current_block_hash == header_hash(last)
    assert info.previous_block_hash == header_hash(before) == last.previous_hash


@pytest.mark.parametrize(("asked", "number"), [("0", 0), ("2", 2), ("002", 2), (LAST, 2)])
async def test_a_block_by_its_number(filled: Site, asked: str, number: int) -> None:
    expected = encode(await block(filled, number))
    assert await ask(filled, "GetBlockByNumber", CHANNEL, asked, "not looked at") == expected


async def test_a_block_by_its_hash(filled: Site) -> None:
    expected = await block(filled, 1)
    asked = header_hash(header_of(expected))
    assert await ask(filled, "GetBlockByHash", CHANNEL, asked) == encode(expected)


async def test_blocks_and_transactions_by_id(filled: Site) -> None:
    expected = await block(filled, 1)
    assert expected.data is not None
    [envelope] = expected.data.data
    tx_id = next(iter(await tx_ids(filled)))
    assert await ask(filled, "GetBlockByTxID", CHANNEL, tx_id) == encode(expected)
    found = decode(ProcessedTransaction, await ask(filled, "GetTransactionByID", CHANNEL, tx_id))
    assert found.transaction_envelope is not None
    assert encode(found.transaction_envelope) == envelope
    assert found.validation_code == 0


async def tx_ids(site: Site) -> list[str]:
    return [each.tx_id for each in transactions(await block(site, 1))]


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((), "Incorrect number of arguments, 0"),
        (("GetChainInfo",), "Incorrect number of arguments, 1"),
        (("GetBlockByNumber", CHANNEL), "missing 3rd argument for GetBlockByNumber"),
        (("Nonsense", CHANNEL), "missing 3rd argument for Nonsense"),
        (("GetChainInfo", "other"), "Invalid chain ID, other"),
        (("Nonsense", CHANNEL, ""), "access denied for [Nonsense][mychannel]: ["),
        (("GetBlockByNumber", CHANNEL, "3"), "Failed to get block number 3, error no such block"),
        (("GetBlockByNumber", CHANNEL, ""), "Failed to parse block number with error"),
        (("GetBlockByNumber", CHANNEL, "-1"), "Failed to parse block number with error"),
        (("GetBlockByNumber", CHANNEL, " 1"), "Failed to parse block number with error"),
        (("GetBlockByNumber", CHANNEL, "1_0"), "Failed to parse block number with error"),
        (("GetBlockByNumber", CHANNEL, str(2**64)), "Failed to parse block number with error"),
        (("GetBlockByHash", CHANNEL, b"\xab"), "Failed to get block hash ab, error no such block"),
        (("GetBlockByTxID", CHANNEL, "x"), "Failed to get block for txID x, error no such"),
        (
            ("GetTransactionByID", CHANNEL, "x"),
            "Failed to get transaction with id x, error no such transaction ID [x] in index",
        ),
    ],
)
async def test_refusals(filled: Site, args: tuple[bytes | str, ...], text: str) -> None:
    assert (await refusal(filled, *args)).startswith(text)


async def test_a_call_by_another_chaincode(filled: Site) -> None:
    text = await refusal(filled, "Nonsense", CHANNEL, through="cc")
    assert text.startswith("Rejecting invoke of QSCC from another chaincode")
    assert text.endswith("original invocation for 'cc'")


async def test_who_may_not_read(filled: Site) -> None:
    stranger = SigningIdentity.self_signed("Org1MSP")
    with pytest.raises(AccessDenied, match=r"^access denied for \[GetChainInfo\]\[mychannel\]: \["):
        await ask(filled, "GetChainInfo", CHANNEL, by=stranger)


async def test_members_of_other_organisations_may_read(filled: Site) -> None:
    assert await ask(filled, "GetChainInfo", CHANNEL, by=filled.other_admin)
