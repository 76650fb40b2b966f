"""Each message type in each state a stream can be in."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from fabric_protos.stream import QueryResponse, QueryStateClose, QueryStateNext
from peer.ledger.api import Ledger
from tests.fakes.stream import Type

from .conftest import CCID, Bench, Executor, params

UNKNOWN = 99
REQUESTS = {8, 9, 10, 11, 14, 15, 16, 17, 19, 20, 21, 22, 23, 24, 25}
OUTCOMES = {Type.COMPLETED, Type.ERROR}
NEVER_FROM_A_CHAINCODE = sorted(set(Type) - REQUESTS - OUTCOMES - {Type.KEEPALIVE})


def test_the_table_is_complete() -> None:
    assert {int(kind) for kind in NEVER_FROM_A_CHAINCODE} == {0, 1, 2, 3, 4, 5, 13}


@pytest.mark.parametrize(
    "kind", sorted({*Type, UNKNOWN} - {Type.REGISTER, Type.KEEPALIVE}), ids=str
)
async def test_before_register_nothing_else_is_allowed(bench: Bench, kind: int) -> None:
    _, chaincode = bench.connect()
    chaincode.send(kind, tx="tx1", channel="ch1")
    await wait_all_tasks_blocked()
    [refused] = bench.refusals
    name = Type(kind).name if kind != UNKNOWN else "99"
    assert refused.code == "FAILED_PRECONDITION"
    assert str(refused) == (
        f"[tx1] Fabric side handler cannot handle message ({name}) while in created state"
    )
    assert chaincode.ended.is_set()
    assert bench.gate.reasons == [str(refused)]


@pytest.mark.parametrize("kind", NEVER_FROM_A_CHAINCODE, ids=str)
async def test_what_only_the_peer_may_send_ends_a_ready_stream(
    bench: Bench, execute: Executor, kind: int
) -> None:
    handler, chaincode = await bench.ready()
    execution = execute(handler, params())
    await chaincode.receive(Type.TRANSACTION)
    chaincode.send(kind, tx="tx1", channel="ch1")
    error = await execution.error()
    [refused] = bench.refusals
    text = (
        f"[tx1] Fabric side handler cannot handle message ({Type(kind).name}) while in ready state"
    )
    assert (refused.code, str(refused)) == ("FAILED_PRECONDITION", text)
    assert str(error).endswith(f"chaincode stream terminated: {text}")
    assert not handler.is_ready


@pytest.mark.parametrize("kind", sorted(REQUESTS), ids=str)
async def test_every_request_is_answered_once_and_with_its_own_name(
    bench: Bench, kind: int
) -> None:
    _, chaincode = await bench.ready()
    answer = await chaincode.ask(kind)
    assert answer.type == Type.ERROR
    name = Type(kind).name
    assert answer.payload.decode() == f"{name} failed: transaction ID: tx1: no ledger context"
    await wait_all_tasks_blocked()
    assert chaincode.nothing_waits()


@pytest.mark.parametrize("kind", sorted(REQUESTS), ids=str)
async def test_a_payload_that_is_no_protobuf_fails_its_request_only(
    bench: Bench, execute: Executor, ledger: Ledger, kind: int
) -> None:
    handler, chaincode = await bench.ready()
    simulator = ledger.new_tx_simulator("tx1")
    execution = execute(handler, params(simulator=simulator))
    await chaincode.receive(Type.TRANSACTION)
    answer = await chaincode.ask(kind, b"\xff\xff")
    assert answer.type == Type.ERROR
    assert answer.payload.startswith(f"{Type(kind).name} failed: transaction ID: tx1: ".encode())
    chaincode.complete()
    assert not isinstance(await execution.result(), Exception)
    simulator.done()


@pytest.mark.parametrize("kind", sorted(OUTCOMES), ids=str)
async def test_an_outcome_nobody_waits_for_is_ignored(bench: Bench, kind: int) -> None:
    handler, chaincode = await bench.ready()
    chaincode.send(kind, b"late", tx="unknown", channel="ch1")
    await wait_all_tasks_blocked()
    assert handler.is_ready
    assert chaincode.nothing_waits()


async def test_keepalive_is_ignored_in_every_state(bench: Bench) -> None:
    handler, chaincode = bench.connect()
    chaincode.send(Type.KEEPALIVE)
    await chaincode.register(CCID)
    chaincode.send(Type.KEEPALIVE, b"echo")
    await wait_all_tasks_blocked()
    assert handler.is_ready
    assert chaincode.nothing_waits()


async def test_an_unknown_request_fails_its_own_transaction_only(
    bench: Bench, execute: Executor
) -> None:
    handler, chaincode = await bench.ready()
    execution = execute(handler, params())
    await chaincode.receive(Type.TRANSACTION)
    answer = await chaincode.ask(UNKNOWN)
    assert answer.type == Type.ERROR
    assert answer.payload == (
        b"[tx1] Fabric side handler cannot handle message (99) while in ready state"
    )
    chaincode.complete()
    assert not isinstance(await execution.result(), Exception)


async def test_an_unknown_message_of_no_transaction_ends_the_stream(bench: Bench) -> None:
    _, chaincode = await bench.ready()
    chaincode.send(UNKNOWN)
    await chaincode.ended.wait()
    await wait_all_tasks_blocked()
    [refused] = bench.refusals
    assert refused.code == "FAILED_PRECONDITION"
    assert "(99)" in str(refused)


async def test_garbage_ends_a_ready_stream(bench: Bench) -> None:
    _, chaincode = await bench.ready()
    chaincode.stream.send(b"\xff\xff\xff")
    await chaincode.ended.wait()
    await wait_all_tasks_blocked()
    assert [refused.code for refused in bench.refusals] == ["INVALID_ARGUMENT"]


async def test_keepalives_go_out_on_the_second(bench: Bench, autojump_clock: object) -> None:
    bench.keepalive_s = 60.0
    began = trio.current_time()
    _, chaincode = await bench.ready()
    for count in (1, 2, 3):
        await trio.sleep_until(began + 60 * count - 0.01)
        assert chaincode.nothing_waits()
        await trio.sleep_until(began + 60 * count + 0.01)
        assert await chaincode.receive_bytes() == bytes.fromhex("0812")


async def test_keepalives_end_with_the_stream(bench: Bench, autojump_clock: object) -> None:
    bench.keepalive_s = 1.0
    _, chaincode = await bench.ready()
    chaincode.close()
    await trio.sleep(10)
    assert bench.gate.reasons == ["the chaincode closed it"]


async def test_zero_means_no_keepalives(bench: Bench, autojump_clock: object) -> None:
    _, chaincode = await bench.ready()
    await trio.sleep(3600)
    assert chaincode.nothing_waits()


async def test_closing_an_unknown_query_is_fine_and_asking_it_is_not(
    bench: Bench, execute: Executor
) -> None:
    handler, chaincode = await bench.ready()
    execute(handler, params())
    await chaincode.receive(Type.TRANSACTION)
    answer = await chaincode.ask(Type.QUERY_STATE_CLOSE, QueryStateClose(id="gone").encode())
    assert answer.type == Type.RESPONSE
    assert QueryResponse.decode(answer.payload) == QueryResponse(id="gone")
    answer = await chaincode.ask(Type.QUERY_STATE_NEXT, QueryStateNext(id="gone").encode())
    assert answer.type == Type.ERROR
    assert answer.payload.endswith(b": query iterator not found")
