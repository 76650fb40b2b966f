"""What a chaincode may ask for, against a real ledger."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio

from fabric_protos.codec import decode
from fabric_protos.kvrwset import HashedRwSet, KvrwSet
from fabric_protos.rwset import TxReadWriteSet
from fabric_protos.stream import (
    ChaincodeMessage,
    DelState,
    GetHistoryForKey,
    GetQueryResult,
    GetState,
    GetStateByRange,
    GetStateMetadata,
    GetStateMultiple,
    GetStateMultipleResult,
    PurgePrivateState,
    PutState,
    PutStateMetadata,
    StateMetadata,
    StateMetadataResult,
    WriteBatchState,
    WriteRecord,
    WriteRecordType,
)
from peer.chaincode.handler import Handler
from peer.chaincode.transactions import Permissions, TransactionParams
from peer.errors import LedgerError
from peer.ledger.api import Ledger, TxSimulator
from tests.fakes.stream import FakeChaincode, Type

from .conftest import NS, Bench, Collections, Execution, Executor, commit, params, put

INIT_REFUSED = "private data APIs are not allowed in chaincode Init()"


class Transaction:
    """A running transaction the test sends requests for."""

    def __init__(
        self, chaincode: FakeChaincode, execution: Execution, simulator: TxSimulator
    ) -> None:
        self.simulator = simulator
        self.chaincode = chaincode
        self._execution = execution

    async def ok(self, kind: int, request: Any) -> bytes:
        """Send a request that must succeed."""
        answer = await self.chaincode.ask(kind, request.encode())
        assert answer.type == Type.RESPONSE, answer.payload
        return answer.payload

    async def error(self, kind: int, request: Any) -> str:
        """Send a request that must fail, and return the cause."""
        answer = await self.chaincode.ask(kind, request.encode())
        assert answer.type == Type.ERROR
        head, found, cause = answer.payload.decode().partition(" failed: transaction ID: tx1: ")
        assert (head, bool(found)) == (Type(kind).name, True)
        return cause

    async def end(self) -> ChaincodeMessage:
        self.chaincode.complete()
        outcome = await self._execution.result()
        assert isinstance(outcome, ChaincodeMessage)
        return outcome

    async def writes(self) -> KvrwSet:
        """End the transaction and return the public read-write set of its namespace."""
        await self.end()
        [namespace] = decode(
            TxReadWriteSet, self.simulator.get_tx_simulation_results().public
        ).ns_rwset
        return decode(KvrwSet, namespace.rwset)

    async def hashed(self) -> HashedRwSet:
        """End the transaction and return the hashed set of its only collection."""
        await self.end()
        [namespace] = decode(
            TxReadWriteSet, self.simulator.get_tx_simulation_results().public
        ).ns_rwset
        [collection] = namespace.collection_hashed_rwset
        return decode(HashedRwSet, collection.hashed_rwset)


Begin = Callable[..., Awaitable[Transaction]]


@pytest.fixture
async def begin(bench: Bench, execute: Executor, ledger: Ledger) -> AsyncIterator[Begin]:
    simulators: list[TxSimulator] = []

    async def begin(kind: int = Type.TRANSACTION, **more: Any) -> Transaction:
        handler: Handler
        handler, chaincode = await bench.ready()
        simulator = ledger.new_tx_simulator("tx1")
        simulators.append(simulator)
        transaction: TransactionParams = params(simulator=simulator, **more)
        execution = execute(handler, transaction, kind=kind)
        await chaincode.receive(kind)
        return Transaction(chaincode, execution, simulator)

    yield begin
    for simulator in simulators:
        simulator.done()


async def test_reading_sees_what_is_committed_and_not_what_was_written(
    begin: Begin, ledger: Ledger
) -> None:
    await put(ledger, {"k1": b"v1"})
    tx = await begin()
    assert await tx.ok(Type.GET_STATE, GetState(key="k1")) == b"v1"
    assert await tx.ok(Type.GET_STATE, GetState(key="missing")) == b""
    assert await tx.ok(Type.PUT_STATE, PutState(key="k1", value=b"v2")) == b""
    assert await tx.ok(Type.GET_STATE, GetState(key="k1")) == b"v1"
    rwset = await tx.writes()
    assert [read.key for read in rwset.reads] == ["k1", "missing"]
    assert [(write.key, write.value, write.is_delete) for write in rwset.writes] == [
        ("k1", b"v2", False)
    ]


async def test_an_answer_over_the_limit_fails_the_request_and_not_the_stream(
    begin: Begin, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.chaincode.handler.MAX_MESSAGE_BYTES", 1000)
    answer = ChaincodeMessage(type=Type.RESPONSE, payload=bytes(900), txid="tx1", channel_id="ch1")
    fits = bytes(1000 - len(answer.encode()) + 900)
    await put(ledger, {"fits": fits, "large": fits + b"\0"})
    tx = await begin()
    text = await tx.error(Type.GET_STATE, GetState(key="large"))
    assert text == "the message has 1001 bytes, the limit is 1000"
    assert await tx.ok(Type.GET_STATE, GetState(key="fits")) == fits
    await tx.end()


async def test_an_empty_value_is_a_delete_and_a_delete_needs_no_value(begin: Begin) -> None:
    tx = await begin()
    await tx.ok(Type.PUT_STATE, PutState(key="a", value=b""))
    assert await tx.ok(Type.DEL_STATE, DelState(key="b")) == b""
    rwset = await tx.writes()
    assert [(write.key, write.is_delete) for write in rwset.writes] == [("a", True), ("b", True)]
    assert rwset.reads == []


async def test_an_empty_value_deletes_the_key_at_commit(begin: Begin, ledger: Ledger) -> None:
    await put(ledger, {"k1": b"v1"})
    tx = await begin()
    await tx.ok(Type.PUT_STATE, PutState(key="k1", value=b""))
    await tx.end()
    await commit(ledger, tx.simulator, "tx1")
    executor = ledger.new_query_executor()
    assert executor.get_state(NS, "k1") is None
    executor.done()


async def test_many_keys_come_back_in_their_order(begin: Begin, ledger: Ledger) -> None:
    await put(ledger, {"a": b"1", "c": b"3"})
    tx = await begin()
    payload = await tx.ok(Type.GET_STATE_MULTIPLE, GetStateMultiple(keys=["c", "b", "a", "c"]))
    assert GetStateMultipleResult.decode(payload).values == [b"3", b"", b"1", b"3"]
    payload = await tx.ok(Type.GET_STATE_MULTIPLE, GetStateMultiple())
    assert GetStateMultipleResult.decode(payload).values == []


async def test_metadata_is_replaced_whole_and_read_sorted(begin: Begin, ledger: Ledger) -> None:
    simulator = ledger.new_tx_simulator("setup")
    simulator.set_state(NS, "k1", b"v1")
    simulator.set_state_metadata(NS, "k1", {"b": b"2", "a": b"1"})
    await commit(ledger, simulator)
    tx = await begin()
    payload = await tx.ok(Type.GET_STATE_METADATA, GetStateMetadata(key="k1"))
    assert StateMetadataResult.decode(payload).entries == [
        StateMetadata(metakey="a", value=b"1"),
        StateMetadata(metakey="b", value=b"2"),
    ]
    payload = await tx.ok(Type.GET_STATE_METADATA, GetStateMetadata(key="none"))
    assert StateMetadataResult.decode(payload).entries == []
    entry = StateMetadata(metakey="VALIDATION_PARAMETER", value=b"policy")
    await tx.ok(Type.PUT_STATE_METADATA, PutStateMetadata(key="k1", metadata=entry))
    cause = await tx.error(Type.PUT_STATE_METADATA, PutStateMetadata(key="k1"))
    assert cause == "no metadata entry given"
    [written] = (await tx.writes()).metadata_writes
    assert written.key == "k1"
    assert [(item.name, item.value) for item in written.entries] == [
        ("VALIDATION_PARAMETER", b"policy")
    ]


async def test_a_batch_is_written_in_order(begin: Begin) -> None:
    tx = await begin()
    batch = WriteBatchState(
        rec=[
            WriteRecord(type=WriteRecordType.PUT_STATE, key="a", value=b"1"),
            WriteRecord(type=WriteRecordType.PUT_STATE, key="a", value=b"2"),
            WriteRecord(type=WriteRecordType.DEL_STATE, key="b"),
            WriteRecord(
                type=WriteRecordType.PUT_STATE_METADATA,
                key="a",
                metadata=StateMetadata(metakey="m", value=b"x"),
            ),
        ]
    )
    assert await tx.ok(Type.WRITE_BATCH_STATE, batch) == b""
    rwset = await tx.writes()
    assert [(write.key, write.value) for write in rwset.writes] == [("a", b"2"), ("b", b"")]
    assert [write.key for write in rwset.metadata_writes] == ["a"]


@pytest.mark.parametrize(
    ("record", "cause"),
    [
        (WriteRecord(type=WriteRecordType.UNDEFINED, key="x"), "unknown operation type"),
        (WriteRecord(type=77, key="x"), "unknown operation type"),
        (
            WriteRecord(type=WriteRecordType.PURGE_PRIVATE_DATA, key="x"),
            "only applicable for private data",
        ),
    ],
)
async def test_a_batch_stops_at_the_first_failure_and_keeps_what_came_before(
    begin: Begin, record: WriteRecord, cause: str
) -> None:
    tx = await begin()
    before = WriteRecord(type=WriteRecordType.PUT_STATE, key="before", value=b"1")
    after = WriteRecord(type=WriteRecordType.PUT_STATE, key="after", value=b"1")
    batch = WriteBatchState(rec=[before, record, after])
    assert await tx.error(Type.WRITE_BATCH_STATE, batch) == cause
    assert [write.key for write in (await tx.writes()).writes] == ["before"]


async def test_purging_is_for_private_data_only(begin: Begin) -> None:
    tx = await begin()
    cause = await tx.error(Type.PURGE_PRIVATE_DATA, DelState(key="k"))
    assert cause == "only applicable for private data"


@pytest.mark.parametrize("form", [DelState, PurgePrivateState])
async def test_private_writes_become_hashes(
    begin: Begin, collections: Collections, form: type[Any]
) -> None:
    tx = await begin(collections=collections)
    await tx.ok(Type.PUT_STATE, PutState(key="a", value=b"1", collection="secrets"))
    await tx.ok(Type.DEL_STATE, DelState(key="b", collection="secrets"))
    await tx.ok(Type.PURGE_PRIVATE_DATA, form(key="c", collection="secrets"))
    entry = StateMetadata(metakey="m", value=b"x")
    await tx.ok(
        Type.PUT_STATE_METADATA,
        PutStateMetadata(key="d", collection="secrets", metadata=entry),
    )
    hashed = await tx.hashed()
    found = {write.key_hash: (write.is_delete, write.is_purge) for write in hashed.hashed_writes}
    assert found == {
        hashlib.sha256(b"a").digest(): (False, False),
        hashlib.sha256(b"b").digest(): (True, False),
        hashlib.sha256(b"c").digest(): (True, True),
    }
    assert [write.key_hash for write in hashed.metadata_writes] == [hashlib.sha256(b"d").digest()]
    assert collections.asked == 1  # once per execution and collection


async def test_private_reads(begin: Begin, ledger: Ledger, collections: Collections) -> None:
    simulator = ledger.new_tx_simulator("setup")
    simulator.set_private_data(NS, "secrets", "a", b"1")
    simulator.set_private_data_metadata(NS, "secrets", "a", {"m": b"x"})
    await commit(ledger, simulator)
    tx = await begin(collections=collections)
    assert await tx.ok(Type.GET_STATE, GetState(key="a", collection="secrets")) == b"1"
    assert await tx.ok(Type.GET_STATE, GetState(key="z", collection="secrets")) == b""
    payload = await tx.ok(
        Type.GET_STATE_MULTIPLE, GetStateMultiple(keys=["z", "a"], collection="secrets")
    )
    assert GetStateMultipleResult.decode(payload).values == [b"", b"1"]
    hashed = await tx.ok(Type.GET_PRIVATE_DATA_HASH, GetState(key="a", collection="secrets"))
    assert hashed == hashlib.sha256(b"1").digest()
    assert await tx.ok(Type.GET_PRIVATE_DATA_HASH, GetState(key="z", collection="secrets")) == b""
    payload = await tx.ok(Type.GET_STATE_METADATA, GetStateMetadata(key="a", collection="secrets"))
    assert StateMetadataResult.decode(payload).entries == [StateMetadata(metakey="m", value=b"x")]


READS: list[tuple[int, Any]] = [
    (Type.GET_STATE, GetState(key="a", collection="secrets")),
    (Type.GET_STATE_MULTIPLE, GetStateMultiple(keys=["a"], collection="secrets")),
    (Type.GET_STATE_METADATA, GetStateMetadata(key="a", collection="secrets")),
    (Type.GET_STATE_BY_RANGE, GetStateByRange(end_key="z", collection="secrets")),
    (Type.GET_QUERY_RESULT, GetQueryResult(query="{}", collection="secrets")),
]
WRITES: list[tuple[int, Any]] = [
    (Type.PUT_STATE, PutState(key="a", value=b"1", collection="secrets")),
    (Type.DEL_STATE, DelState(key="a", collection="secrets")),
    (Type.PURGE_PRIVATE_DATA, DelState(key="a", collection="secrets")),
    (
        Type.PUT_STATE_METADATA,
        PutStateMetadata(key="a", collection="secrets", metadata=StateMetadata(metakey="m")),
    ),
    (
        Type.WRITE_BATCH_STATE,
        WriteBatchState(
            rec=[WriteRecord(type=WriteRecordType.PUT_STATE, key="a", collection="secrets")]
        ),
    ),
]
HASH: tuple[int, Any] = (Type.GET_PRIVATE_DATA_HASH, GetState(key="a", collection="secrets"))


@pytest.mark.parametrize(("kind", "request_"), [*READS, *WRITES, HASH])
async def test_init_may_not_touch_private_data(
    begin: Begin, collections: Collections, kind: int, request_: Any
) -> None:
    tx = await begin(Type.INIT, collections=collections)
    assert await tx.error(kind, request_) == INIT_REFUSED
    assert collections.asked == 0


@pytest.mark.parametrize(("kind", "request_"), READS)
async def test_who_may_not_read_a_collection(
    begin: Begin, collections: Collections, kind: int, request_: Any
) -> None:
    collections.permitted = Permissions(read=False, write=True)
    tx = await begin(collections=collections)
    assert await tx.error(kind, request_) == (
        "tx creator does not have read access permission on privatedata in "
        "chaincodeName:mycc collectionName: secrets"
    )


@pytest.mark.parametrize(("kind", "request_"), WRITES)
async def test_who_may_not_write_a_collection(
    begin: Begin, collections: Collections, kind: int, request_: Any
) -> None:
    collections.permitted = Permissions(read=True, write=False)
    tx = await begin(collections=collections)
    assert await tx.error(kind, request_) == (
        "tx creator does not have write access permission on privatedata in "
        "chaincodeName:mycc collectionName: secrets"
    )


async def test_the_hash_of_private_data_is_for_everybody(
    begin: Begin, collections: Collections
) -> None:
    collections.permitted = Permissions(read=False, write=False)
    tx = await begin(collections=collections)
    assert await tx.ok(*HASH) == b""


async def test_an_unknown_collection(begin: Begin, collections: Collections) -> None:
    tx = await begin(collections=collections)
    cause = await tx.error(Type.GET_STATE, GetState(key="a", collection="none"))
    assert cause == "collection ch1/mycc/none could not be found"
    cause = await tx.error(Type.GET_PRIVATE_DATA_HASH, GetState(key="a", collection="none"))
    assert cause == "collection [none] not defined in the collection config for chaincode [mycc]"


async def test_no_collections_at_all(begin: Begin) -> None:
    tx = await begin()
    cause = await tx.error(Type.GET_STATE, GetState(key="a", collection="secrets"))
    assert cause == "no ledger context"


async def test_a_call_without_a_channel_can_ask_for_nothing(
    bench: Bench, execute: Executor
) -> None:
    handler, chaincode = await bench.ready()
    execute(handler, params(channel_id=""))
    await chaincode.receive(Type.TRANSACTION)
    for kind, request in (
        (Type.GET_STATE, GetState(key="a")),
        (Type.PUT_STATE, PutState(key="a", value=b"1")),
        (Type.GET_STATE_BY_RANGE, GetStateByRange()),
    ):
        answer = await chaincode.ask(kind, request.encode(), channel="")
        assert answer.type == Type.ERROR
        assert answer.payload.endswith(b": no ledger context")


async def test_history_that_is_off_is_an_error(begin: Begin) -> None:
    tx = await begin(history=None)
    cause = await tx.error(Type.GET_HISTORY_FOR_KEY, GetHistoryForKey(key="k1"))
    assert cause == "history database is not enabled"


async def test_a_ledger_that_refuses_is_quoted(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    tx = await begin()

    def refuse(*args: object) -> None:
        raise LedgerError("the reason")

    monkeypatch.setattr(tx.simulator, "set_state", refuse)
    assert await tx.error(Type.PUT_STATE, PutState(key="a", value=b"1")) == "the reason"


async def test_a_rich_query_that_makes_no_sense_is_an_error_that_says_where(
    begin: Begin, collections: Collections
) -> None:
    tx = await begin(collections=collections)
    for collection in ("", "secrets"):
        cause = await tx.error(
            Type.GET_QUERY_RESULT, GetQueryResult(query="{}", collection=collection)
        )
        assert cause == "rich query: selector is missing"
    await trio.lowlevel.checkpoint()
