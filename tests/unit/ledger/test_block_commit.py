"""Whole blocks: what is refused, what the verdicts and hashes are, what can be asked afterwards."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from fabric_protos.codec import encode
from fabric_protos.common import Block, BlockData, BlockHeader, Envelope, Header, Payload
from fabric_protos.kvrwset import KvrwSet, KvWrite
from fabric_protos.protos import (
    ChaincodeAction,
    ChaincodeActionPayload,
    ChaincodeEndorsedAction,
    ProposalResponsePayload,
    Transaction,
    TransactionAction,
)
from fabric_protos.rwset import NsReadWriteSet, TxReadWriteSet
from fabric_protos.stream import ChannelHeader, HeaderType, SignatureHeader
from peer.errors import BlockError, LedgerStorageError
from peer.ledger import open_ledger
from peer.ledger.api import (
    Ledger,
    SimulationResults,
    Timestamp,
    ValidationCode,
    Version,
)
from peer.ledger.blocks import commit_hash_of, data_hash, flags_of, header_hash
from tests.unordered import CommittingTransaction, commit_unordered

VALID, BAD_PAYLOAD = ValidationCode.VALID, ValidationCode.BAD_PAYLOAD


def block_of(ledger: Ledger, *envelopes: bytes) -> Block:
    info = ledger.blockchain_info()
    data = BlockData(data=list(envelopes))
    header = BlockHeader(
        number=info.height, previous_hash=info.current_block_hash, data_hash=data_hash(data)
    )
    return Block(header=header, data=data)


def envelope(
    data: bytes, *, kind: int = HeaderType.ENDORSER_TRANSACTION, tx_id: str = "", nonce: bytes = b""
) -> bytes:
    header = Header(
        channel_header=ChannelHeader(type=kind, tx_id=tx_id).encode(),
        signature_header=SignatureHeader(creator=b"creator", nonce=nonce).encode(),
    )
    return encode(Envelope(payload=encode(Payload(header=header, data=data)), signature=b"s"))


def action(results: bytes) -> bytes:
    response = ProposalResponsePayload(extension=encode(ChaincodeAction(results=results)))
    endorsed = ChaincodeEndorsedAction(proposal_response_payload=encode(response))
    return encode(ChaincodeActionPayload(action=endorsed))


def endorsed(*actions: bytes) -> bytes:
    return encode(Transaction(actions=[TransactionAction(payload=each) for each in actions]))


def writing(key: str, value: bytes, namespace: str = "cc") -> bytes:
    rwset = encode(KvrwSet(writes=[KvWrite(key=key, value=value)]))
    return encode(TxReadWriteSet(ns_rwset=[NsReadWriteSet(namespace=namespace, rwset=rwset)]))


async def test_commit_hashes(tmp_path: Path) -> None:
    collections = {"mycc": ["c1"], "zz": ["c9"]}
    async with open_ledger(tmp_path, "ch", collections=collections.get) as ledger:
        await ledger.commit(block_of(ledger, envelope(b"config", kind=1)), [VALID])
        simulator = ledger.new_tx_simulator("")
        reader = ledger.new_tx_simulator("")
        reader.get_state("mycc", "a")
        stale = reader.get_tx_simulation_results()
        simulator.set_state("mycc", "a", b"1")
        simulator.delete_state("mycc", "b")
        await commit_unordered(ledger, [transaction_of("1", simulator.get_tx_simulation_results())])
        simulator = ledger.new_tx_simulator("")
        simulator.set_state("mycc", "a", b"2")
        simulator.set_private_data("mycc", "c1", "k", b"v")
        simulator.delete_private_data("zz", "c9", "k2")
        results = simulator.get_tx_simulation_results()
        codes = await commit_unordered(
            ledger, [transaction_of("2", stale), transaction_of("3", results)]
        )
        assert codes == [ValidationCode.MVCC_READ_CONFLICT, VALID]
        block = await ledger.block_by_number(2)
        assert block is not None
        assert commit_hash_of(block).hex() == (
            "dc3be26cd36a14931271421eb570de84fa7ae21890b4535ea6fbb69b9a2480cf"
        )
        done = await ledger.commit(block_of(ledger, b"\xff"), [ValidationCode.INVALID_OTHER_REASON])
        assert commit_hash_of(done.block).hex() == (
            "83627a866966f211eabb760e1aedd285a1aab94dff5b2cf4373f40472e5f8330"
        )


def transaction_of(tx_id: str, results: SimulationResults) -> CommittingTransaction:
    return CommittingTransaction(tx_id=tx_id, timestamp=Timestamp(0), results=results)


async def test_only_the_next_block_is_taken(channel: Any) -> None:
    ledger = channel.ledger
    await channel.put(k=b"1")
    good = block_of(ledger, envelope(endorsed(action(writing("k", b"2")))))
    assert good.header is not None

    def changed(**fields: Any) -> Block:
        header = BlockHeader(
            number=good.header.number,  # type: ignore[union-attr]  # checked above
            previous_hash=good.header.previous_hash,  # type: ignore[union-attr]  # likewise
            data_hash=good.header.data_hash,  # type: ignore[union-attr]  # likewise
        )
        for name, value in fields.items():
            setattr(header, name, value)
        return Block(header=header, data=good.data)

    for block, reason in (
        (changed(number=0), "block 0 .* the next block is 1"),
        (changed(number=2), "block 2 .* the next block is 1"),
        (changed(previous_hash=b"\1" * 32), "its previous hash is 0101"),
        (changed(data_hash=b"\1" * 32), "does not cover its data"),
        (Block(header=good.header), "does not cover its data"),
        (Block(data=good.data), "no header"),
    ):
        with pytest.raises(BlockError, match=reason):
            await ledger.commit(block, [VALID])
    for verdicts in ([], [VALID] * 2):
        with pytest.raises(ValueError, match="zip"):
            await ledger.commit(good, verdicts)
    assert (ledger.height, channel.get("k")) == (1, b"1")
    await ledger.commit(good, [VALID])
    assert (ledger.height, channel.get("k")) == (2, b"2")


async def test_verdicts_of_the_ledger_and_of_others(channel: Any) -> None:
    good = endorsed(action(writing("k", b"good")))
    cases: list[tuple[bytes, ValidationCode, ValidationCode]] = [
        (envelope(good), VALID, VALID),
        (envelope(endorsed(action(writing("other", b"1")))), BAD_PAYLOAD, BAD_PAYLOAD),
        (b"\xff", VALID, ValidationCode.INVALID_OTHER_REASON),
        (encode(Envelope(payload=b"")), VALID, ValidationCode.INVALID_OTHER_REASON),
        (envelope(b"\xff"), VALID, ValidationCode.NIL_TXACTION),
        (envelope(b""), VALID, ValidationCode.NIL_TXACTION),
        (envelope(endorsed(b"")), VALID, ValidationCode.NIL_TXACTION),
        (envelope(endorsed(action(b"\xff"))), VALID, ValidationCode.INVALID_OTHER_REASON),
        (envelope(good, kind=HeaderType.MESSAGE), VALID, VALID),  # of no consequence
        (envelope(good, kind=HeaderType.CONFIG), BAD_PAYLOAD, BAD_PAYLOAD),
        (envelope(endorsed(action(writing("k", b"last")), b"")), VALID, VALID),
    ]
    block = block_of(channel.ledger, *(each for each, _, _ in cases))
    done = await channel.ledger.commit(block, [verdict for _, verdict, _ in cases])
    assert list(done.codes) == [expected for _, _, expected in cases]
    assert flags_of(done.block) == bytes(done.codes)
    assert (channel.get("k"), channel.get("other")) == (b"last", None)
    assert await channel.ledger.last_config_block() is None


async def test_a_configuration_takes_effect(channel: Any) -> None:
    ledger = channel.ledger
    genesis = await ledger.commit(block_of(ledger, envelope(b"one", kind=1)), [VALID])
    await channel.put(k=b"v")
    assert await ledger.last_config_block() == genesis.block
    executor = ledger.new_query_executor()
    assert executor.get_state("", "CHANNEL_CONFIG_ENV_BYTES") == b"one"
    executor.done()
    before = (await channel.ledger.block_by_number(1)) or Block()
    done = await ledger.commit(block_of(ledger, envelope(b"two", kind=1)), [VALID])
    assert await ledger.last_config_block() == done.block
    # A configuration is no part of the commit hash, nor is an endorsed write to its namespace.
    assert commit_hash_of(done.block) == sha256(b"\1\0" + commit_hash_of(before)).digest()
    sly = block_of(ledger, envelope(endorsed(action(writing("a", b"1", namespace="")))))
    after = await ledger.commit(sly, [VALID])
    assert commit_hash_of(after.block) == sha256(b"\1\0" + commit_hash_of(done.block)).digest()


async def test_blocks_and_transactions_are_found(channel: Any) -> None:
    ledger = channel.ledger
    config, computed = envelope(b"", kind=1, nonce=b"n"), sha256(b"ncreator").hexdigest()
    blocks = []
    for ids in (["a", "b"], ["b", "c"], []):
        envelopes = [envelope(endorsed(action(writing(i, b"1"))), tx_id=i) for i in ids]
        block = block_of(ledger, *(envelopes or [config]))
        codes = [ValidationCode.DUPLICATE_TXID if i == "a" else VALID for i in ids or [""]]
        blocks.append((await ledger.commit(block, codes)).block)
    for number, block in enumerate(blocks):
        assert block.header is not None
        assert await ledger.block_by_number(number) == block
        assert await ledger.block_by_hash(header_hash(block.header)) == block
    places = {"a": Version(0, 0), "b": Version(0, 1), "c": Version(1, 1), computed: Version(2, 0)}
    for tx_id, version in places.items():
        assert ledger.has_transaction(tx_id)
        assert await ledger.block_by_tx_id(tx_id) == blocks[version.block]
        found = await ledger.transaction_by_id(tx_id)
        assert found is not None
        data = blocks[version.block].data
        assert data is not None
        assert (found.envelope, found.version) == (data.data[version.tx], version)
        assert found.code is (ValidationCode.DUPLICATE_TXID if tx_id == "a" else VALID)
    assert not ledger.has_transaction("")
    assert await ledger.block_by_number(3) is None
    assert await ledger.block_by_number(-1) is None
    assert await ledger.block_by_hash(b"") is None
    assert await ledger.block_by_tx_id("d") is None
    assert await ledger.transaction_by_id("d") is None
    info = ledger.blockchain_info()
    last = blocks[-1].header
    assert last is not None
    assert (info.height, info.current_block_hash) == (3, header_hash(last))
    assert info.previous_block_hash == last.previous_hash


async def test_a_new_ledger_is_empty(channel: Any) -> None:
    info = channel.ledger.blockchain_info()
    assert (info.height, info.current_block_hash, info.previous_block_hash) == (0, b"", b"")
    assert await channel.ledger.last_config_block() is None


async def test_blocks_are_followed_from_anywhere(channel: Any) -> None:
    ledger = channel.ledger
    await channel.put(k=b"0")
    await channel.put(k=b"1")
    seen: dict[int, list[int]] = {0: [], 2: [], 3: []}
    caught_up, arrived = trio.Event(), trio.Event()

    async def follow(start: int) -> None:
        async for block in ledger.blocks(start):
            assert block.header is not None
            seen[start].append(block.header.number)
            if seen[0] == [0, 1]:
                caught_up.set()
            if all(numbers and numbers[-1] == 4 for numbers in seen.values()):
                arrived.set()

    async with trio.open_nursery() as nursery:
        for start in seen:
            nursery.start_soon(follow, start)
        await caught_up.wait()
        await wait_all_tasks_blocked()
        assert seen == {0: [0, 1], 2: [], 3: []}
        for value in (b"2", b"3", b"4"):
            await channel.put(k=value)
        await arrived.wait()
        nursery.cancel_scope.cancel()
    assert seen == {0: [0, 1, 2, 3, 4], 2: [2, 3, 4], 3: [3, 4]}


async def test_who_waits_for_blocks_learns_that_the_ledger_closes(tmp_path: Path) -> None:
    async def follow(ledger: Ledger, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        with pytest.raises(LedgerStorageError, match="closed"):
            await anext(aiter(ledger.blocks(0)))

    async with trio.open_nursery() as nursery, open_ledger(tmp_path, "ch") as ledger:
        await nursery.start(follow, ledger)
        await wait_all_tasks_blocked()


async def test_a_block_counts_once_its_commit_returns(
    channel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = channel.ledger
    write_block, written, go_on = ledger._chain.store.write_block, trio.Event(), trio.Event()

    def held_up(rows: object) -> None:
        write_block(rows)
        trio.from_thread.run_sync(written.set)
        trio.from_thread.run(go_on.wait)

    monkeypatch.setattr(ledger._chain.store, "write_block", held_up)
    block = block_of(ledger, envelope(endorsed(action(writing("k", b"v"))), tx_id="t"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.commit, block, [VALID])
        await written.wait()
        assert await ledger.block_by_number(0) is None
        assert await ledger.transaction_by_id("t") is None
        assert (ledger.height, ledger.blockchain_info().height) == (0, 0)
        go_on.set()
    assert await ledger.transaction_by_id("t") is not None
