"""Executions on a stream: outcomes, limits, losses, many at once, cancellation."""

from __future__ import annotations

import random

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from fabric_protos.stream import (
    ChaincodeEvent,
    ChaincodeId,
    ChaincodeInput,
    ChaincodeMessage,
    ChaincodeSpec,
    GetState,
    PutState,
    QueryStateClose,
    Response,
    SignedProposal,
)
from peer.errors import DuplicateTransaction, ExecuteError, ExecuteTimeout, StreamTerminated, TxKey
from peer.ledger.api import Ledger
from tests.fakes.stream import Type

from .conftest import CCID, Bench, Executor, params, put

INVOKE = ChaincodeSpec(chaincode_id=ChaincodeId(name="other"), input=ChaincodeInput()).encode()


async def test_a_transaction_is_these_bytes(bench: Bench, execute: Executor) -> None:
    handler, chaincode = await bench.ready()
    execution = execute(handler, params())
    sent = await chaincode.receive_bytes()
    assert sent == bytes.fromhex("08051a090a036765740a026b3122037478313a03636831")
    chaincode.stream.send(
        bytes.fromhex("08061a0708c8011a027631220374783132071a0265762201783a03636831")
    )
    assert await execution.result() == ChaincodeMessage(
        type=Type.COMPLETED,
        payload=Response(status=200, payload=b"v1").encode(),
        txid="tx1",
        channel_id="ch1",
        chaincode_event=ChaincodeEvent(event_name="ev", payload=b"x"),
    )


async def test_the_proposal_goes_along(bench: Bench, execute: Executor) -> None:
    handler, chaincode = await bench.ready()
    proposal = SignedProposal(proposal_bytes=b"p", signature=b"s")
    execute(handler, params(signed_proposal=proposal), kind=Type.INIT)
    message = await chaincode.receive(Type.INIT)
    assert message.proposal == proposal


async def test_a_call_over_the_limit_fails_alone(
    bench: Bench, execute: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.chaincode.handler.MAX_MESSAGE_BYTES", 1000)
    handler, chaincode = await bench.ready()
    other = execute(handler, params("tx1"))
    await chaincode.receive(Type.TRANSACTION)
    proposal = SignedProposal(proposal_bytes=bytes(1000))
    error = await execute(handler, params("tx2", signed_proposal=proposal)).error()
    assert type(error) is ExecuteError
    assert "bytes, the limit is 1000" in str(error)
    assert chaincode.nothing_waits()
    chaincode.complete(tx="tx1")
    assert isinstance(await other.result(), ChaincodeMessage)


async def test_an_error_is_an_outcome_too(bench: Bench, execute: Executor) -> None:
    handler, chaincode = await bench.ready()
    execution = execute(handler, params())
    await chaincode.receive(Type.TRANSACTION)
    chaincode.send(Type.ERROR, b"it broke", tx="tx1", channel="ch1")
    outcome = await execution.result()
    assert isinstance(outcome, ChaincodeMessage)
    assert (outcome.type, outcome.payload) == (Type.ERROR, b"it broke")


async def test_idle_is_when_the_last_execution_is_over(
    bench: Bench, execute: Executor, nursery: trio.Nursery
) -> None:
    handler, chaincode = await bench.ready()
    await handler.wait_idle()
    for tx in ("tx1", "tx2"):
        execute(handler, params(tx))
        await chaincode.receive(Type.TRANSACTION)
    idle = trio.Event()

    async def wait() -> None:
        await handler.wait_idle()
        idle.set()

    nursery.start_soon(wait)
    for tx in ("tx2", "tx1"):
        await wait_all_tasks_blocked()
        assert not idle.is_set()
        chaincode.complete(tx=tx)
    await idle.wait()


@pytest.mark.parametrize("answers", [True, False])
async def test_at_a_debugger_the_limit_begins_anew(
    bench: Bench, execute: Executor, answers: bool, autojump_clock: object
) -> None:
    """Asked only when the time is over: after 30 s and 60 s somebody debugs, after 90 s nobody."""
    began, asked = trio.current_time(), list[float]()

    def is_debugged() -> bool:
        asked.append(trio.current_time() - began)
        return len(asked) < 3

    bench.is_debugged = is_debugged
    handler, chaincode = await bench.ready()
    execution = execute(handler, params(), limit_s=30.0)
    await chaincode.receive(Type.TRANSACTION)
    await trio.sleep(75)
    if answers:
        chaincode.complete(tx="tx1")
        assert isinstance(await execution.result(), ChaincodeMessage)
        assert asked == pytest.approx([30, 60])
    else:
        assert isinstance(await execution.error(), ExecuteTimeout)
        assert asked == pytest.approx([30, 60, 90])


async def test_the_limit_is_exact_and_the_stream_lives_on(
    bench: Bench, execute: Executor, autojump_clock: object
) -> None:
    handler, chaincode = await bench.ready()
    began = trio.current_time()
    execution = execute(handler, params(), limit_s=30.0)
    await chaincode.receive(Type.TRANSACTION)
    error = await execution.error()
    assert trio.current_time() - began == pytest.approx(30.0)
    assert isinstance(error, ExecuteTimeout)
    assert error.key == TxKey("ch1", "tx1")
    assert "timeout expired while executing transaction" in str(error)
    assert "30 s" in str(error)

    # Late requests are refused, the late outcome is ignored, the key is free again.
    answer = await chaincode.ask(Type.GET_STATE, GetState(key="k").encode())
    assert (answer.type, answer.payload) == (
        Type.ERROR,
        b"GET_STATE failed: transaction ID: tx1: no ledger context",
    )
    chaincode.complete(payload=b"late")
    await wait_all_tasks_blocked()
    again = execute(handler, params())
    await chaincode.receive(Type.TRANSACTION)
    chaincode.complete(payload=b"in time")
    outcome = await again.result()
    assert isinstance(outcome, ChaincodeMessage)
    assert Response.decode(outcome.payload).payload == b"in time"


async def test_only_the_first_outcome_counts(bench: Bench, execute: Executor) -> None:
    handler, chaincode = await bench.ready()
    execution = execute(handler, params())
    await chaincode.receive(Type.TRANSACTION)
    chaincode.complete(payload=b"first")
    chaincode.complete(payload=b"second")
    chaincode.send(Type.ERROR, b"third", tx="tx1", channel="ch1")
    outcome = await execution.result()
    assert isinstance(outcome, ChaincodeMessage)
    assert Response.decode(outcome.payload).payload == b"first"
    assert handler.is_ready


async def test_the_same_transaction_cannot_run_twice(bench: Bench, execute: Executor) -> None:
    handler, chaincode = await bench.ready()
    first = execute(handler, params())
    await chaincode.receive(Type.TRANSACTION)
    error = await execute(handler, params()).error()
    assert isinstance(error, DuplicateTransaction)
    assert "txid: tx1(ch1) exists" in str(error)
    assert chaincode.nothing_waits()
    chaincode.complete()
    assert isinstance(await first.result(), ChaincodeMessage)


async def test_channel_and_transaction_are_a_pair_not_a_string(
    bench: Bench, execute: Executor
) -> None:
    handler, chaincode = await bench.ready()
    one = execute(handler, params("c", "ab"))
    await chaincode.receive(Type.TRANSACTION)
    two = execute(handler, params("bc", "a"))
    await chaincode.receive(Type.TRANSACTION)
    three = execute(handler, params("c", "ch2"))
    await chaincode.receive(Type.TRANSACTION)
    chaincode.complete(tx="bc", channel="a", payload=b"two")
    chaincode.complete(tx="c", channel="ch2", payload=b"three")
    chaincode.complete(tx="c", channel="ab", payload=b"one")
    for execution, payload in ((one, b"one"), (two, b"two"), (three, b"three")):
        outcome = await execution.result()
        assert isinstance(outcome, ChaincodeMessage)
        assert Response.decode(outcome.payload).payload == payload


async def test_a_thousand_at_once_with_shuffled_answers(bench: Bench, execute: Executor) -> None:
    handler, chaincode = await bench.ready()
    running = {f"tx{number}": execute(handler, params(f"tx{number}")) for number in range(1000)}
    arrived = [(await chaincode.receive(Type.TRANSACTION)).txid for _ in running]
    assert set(arrived) == set(running)
    random.Random(7).shuffle(arrived)
    for tx_id in arrived:
        chaincode.complete(tx=tx_id, payload=tx_id.encode())
    for tx_id, execution in running.items():
        outcome = await execution.result()
        assert isinstance(outcome, ChaincodeMessage)
        assert Response.decode(outcome.payload).payload == tx_id.encode()


async def test_the_end_of_the_stream_fails_what_runs_at_once(
    bench: Bench, execute: Executor, autojump_clock: object
) -> None:
    handler, chaincode = await bench.ready()
    began = trio.current_time()
    running = [execute(handler, params(f"tx{number}")) for number in range(3)]
    for _ in running:
        await chaincode.receive(Type.TRANSACTION)
    chaincode.close()
    for execution in running:
        error = await execution.error()
        assert isinstance(error, StreamTerminated)
        assert error.reason == "chaincode stream terminated: the chaincode closed it"
    assert trio.current_time() == began
    assert isinstance(await execute(handler, params()).error(), StreamTerminated)


async def test_a_send_that_fails_ends_the_execution_at_once(
    bench: Bench, execute: Executor, autojump_clock: object
) -> None:
    handler, chaincode = bench.connect(capacity=2)
    await chaincode.register(CCID)
    running = [execute(handler, params(f"tx{number}")) for number in range(6)]
    errors = [await execution.error() for execution in running]
    assert all(isinstance(error, StreamTerminated) for error in errors)
    assert any("the other side does not read" in str(error) for error in errors)
    await wait_all_tasks_blocked()
    assert not handler.is_ready


async def test_a_cancelled_stream_says_so(bench: Bench, execute: Executor) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            bench.nursery = nursery
            handler, chaincode = await bench.ready()
            execution = execute(handler, params())
            await chaincode.receive(Type.TRANSACTION)
            scope.cancel()
    assert str(await execution.error()).endswith("chaincode stream terminated: the peer ended it")
    assert bench.gate.reasons == ["the peer ended it"]


async def test_a_caller_cancelled_while_waiting_leaves_nothing(
    bench: Bench, execute: Executor
) -> None:
    handler, chaincode = await bench.ready()
    execution = execute(handler, params())
    await chaincode.receive(Type.TRANSACTION)
    execution.scope.cancel()
    await execution.done.wait()
    assert execution.outcome is None
    answer = await chaincode.ask(Type.GET_STATE)
    assert answer.payload.endswith(b"no ledger context")
    execute(handler, params())
    await chaincode.receive(Type.TRANSACTION)


async def test_a_caller_cancelled_before_it_began_leaves_nothing_either(
    bench: Bench, execute: Executor
) -> None:
    handler, chaincode = await bench.ready()
    execution = execute(handler, params())
    execution.scope.cancel()
    await execution.done.wait()
    assert execution.outcome is None
    await chaincode.receive(Type.TRANSACTION)
    assert (await chaincode.ask(Type.GET_STATE)).payload.endswith(b"no ledger context")


async def test_a_request_that_is_cut_off_by_the_end_is_still_answered(
    bench: Bench, execute: Executor, autojump_clock: object
) -> None:
    """Libraries wait for an answer without a limit; silence would hang their thread for good."""
    handler, chaincode = await bench.ready()
    execution = execute(handler, params(), limit_s=5.0)
    await chaincode.receive(Type.TRANSACTION)
    chaincode.send(Type.INVOKE_CHAINCODE, INVOKE, tx="tx1", channel="ch1")
    assert isinstance(await execution.error(), ExecuteTimeout)
    answer = await chaincode.receive(Type.ERROR)
    assert (answer.txid, answer.channel_id) == ("tx1", "ch1")
    assert answer.payload == b"INVOKE_CHAINCODE failed: transaction ID: tx1: no ledger context"


async def test_a_second_request_while_one_runs_is_refused(bench: Bench, execute: Executor) -> None:
    handler, chaincode = await bench.ready()
    execute(handler, params())
    await chaincode.receive(Type.TRANSACTION)
    chaincode.send(Type.INVOKE_CHAINCODE, INVOKE, tx="tx1", channel="ch1")
    await wait_all_tasks_blocked()
    for kind in (Type.GET_STATE, Type.INVOKE_CHAINCODE):
        answer = await chaincode.ask(kind)
        assert answer.type == Type.ERROR
        assert answer.payload.decode() == (
            f"{Type(kind).name} failed: transaction ID: tx1: "
            "another request pending for this transaction"
        )
    bench.hold_calls.set()
    answer = await chaincode.receive(Type.RESPONSE)
    assert answer.payload == b"called"


async def test_the_next_request_may_come_in_the_moment_of_the_answer(
    bench: Bench, execute: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chaincode's answer to our answer arrives before our send has returned."""
    bench.hold_calls.set()
    handler, chaincode = await bench.ready()
    execute(handler, params())
    await chaincode.receive(Type.TRANSACTION)
    answers: list[int] = []
    send = handler._stream.send  # the moment cannot be hit from outside

    def answering(data: bytes) -> None:
        send(data)
        answers.append(ChaincodeMessage.decode(data).type)
        if len(answers) < 5:
            request = ChaincodeMessage(
                type=Type.INVOKE_CHAINCODE, payload=INVOKE, txid="tx1", channel_id="ch1"
            )
            handler._on_message(request.encode())

    monkeypatch.setattr(handler._stream, "send", answering)
    chaincode.send(Type.INVOKE_CHAINCODE, INVOKE, tx="tx1", channel="ch1")
    await wait_all_tasks_blocked()
    assert answers == [Type.RESPONSE] * 5


async def test_requests_of_other_transactions_do_not_wait(
    bench: Bench, execute: Executor, ledger: Ledger
) -> None:
    await put(ledger, {"k1": b"v1"})
    handler, chaincode = await bench.ready()
    execute(handler, params("slow"))
    await chaincode.receive(Type.TRANSACTION)
    simulator = ledger.new_tx_simulator("quick")
    execute(handler, params("quick", simulator=simulator))
    await chaincode.receive(Type.TRANSACTION)
    chaincode.send(Type.INVOKE_CHAINCODE, INVOKE, tx="slow", channel="ch1")
    await wait_all_tasks_blocked()
    answer = await chaincode.ask(Type.GET_STATE, GetState(key="k1").encode(), tx="quick")
    assert answer.payload == b"v1"
    simulator.done()


async def test_a_bug_in_a_request_fails_that_request(
    bench: Bench, execute: Executor, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, chaincode = await bench.ready()
    simulator = ledger.new_tx_simulator("tx1")

    def explode(*args: object) -> bytes:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(simulator, "get_state", explode)
    monkeypatch.setattr(simulator, "get_state_range", explode)
    execution = execute(handler, params(simulator=simulator))
    await chaincode.receive(Type.TRANSACTION)
    for kind in (Type.GET_STATE, Type.GET_STATE_BY_RANGE):
        answer = await chaincode.ask(kind)
        assert answer.type == Type.ERROR
        assert answer.payload.endswith(b"a bug")
    chaincode.complete()
    assert isinstance(await execution.result(), ChaincodeMessage)
    simulator.done()


async def test_an_answer_that_comes_after_the_stream_is_dropped(
    bench: Bench, execute: Executor
) -> None:
    handler, chaincode = await bench.ready()
    execution = execute(handler, params())
    await chaincode.receive(Type.TRANSACTION)
    chaincode.send(Type.INVOKE_CHAINCODE, INVOKE, tx="tx1", channel="ch1")
    await wait_all_tasks_blocked()
    bench.hold_calls.set()
    chaincode.close()
    assert isinstance(await execution.error(), StreamTerminated)


async def test_requests_are_counted_when_their_execution_is_over(
    bench: Bench, execute: Executor, autojump_clock: object
) -> None:
    handler, chaincode = await bench.ready()
    execution = execute(handler, params())
    await chaincode.receive(Type.TRANSACTION)
    for _ in range(3):
        await chaincode.ask(Type.QUERY_STATE_CLOSE, QueryStateClose(id="q").encode())
    await chaincode.ask(Type.QUERY_STATE_CLOSE, b"\xff")
    chaincode.send(Type.INVOKE_CHAINCODE, INVOKE, tx="tx1", channel="ch1")
    await trio.sleep(0.3)
    await chaincode.ask(Type.PUT_STATE, PutState(key="k").encode())  # one at a time
    bench.hold_calls.set()
    assert (await chaincode.receive(Type.RESPONSE)).payload == b"called"
    where = {"channel": "ch1", "chaincode": CCID}
    kinds = ("QUERY_STATE_CLOSE", "PUT_STATE", "INVOKE_CHAINCODE", "DEL_STATE")

    def received() -> list[float | None]:
        name = "chaincode_shim_requests_received"
        return [bench.counted.value(name, type=kind, **where) for kind in kinds]

    def completed(success: str) -> list[float | None]:
        name, more = "chaincode_shim_requests_completed", where | {"success": success}
        return [bench.counted.value(name, type=kind, **more) for kind in kinds]

    assert received() == [None] * 4
    chaincode.complete(tx="tx1")
    await execution.result()
    assert received() == [4, 1, 1, None]
    assert completed("true") == [3, None, 1, None]
    assert completed("false") == [1, 1, None, None]
    call = where | {"type": "INVOKE_CHAINCODE", "success": "true"}
    name = "chaincode_shim_request_duration"
    assert bench.counted.value(f"{name}_sum", **call) == pytest.approx(0.3)
    assert bench.counted.value(f"{name}_count", **call | {"type": "QUERY_STATE_CLOSE"}) is None


async def test_requests_of_an_execution_that_is_cut_off_are_counted_as_failed(
    bench: Bench, execute: Executor, autojump_clock: object
) -> None:
    handler, chaincode = await bench.ready()
    execution = execute(handler, params(), limit_s=2.0)
    await chaincode.receive(Type.TRANSACTION)
    chaincode.send(Type.INVOKE_CHAINCODE, INVOKE, tx="tx1", channel="ch1")
    assert isinstance(await execution.error(), ExecuteTimeout)
    labels = {"type": "INVOKE_CHAINCODE", "channel": "ch1", "chaincode": CCID}
    value = bench.counted.value
    assert value("chaincode_shim_requests_received", **labels) == 1
    assert value("chaincode_shim_requests_completed", **labels, success="false") == 1
    took_s = value("chaincode_shim_request_duration_sum", **labels, success="false")
    assert took_s == pytest.approx(2.0)


async def test_each_execution_has_its_own_limit(
    bench: Bench, execute: Executor, autojump_clock: object
) -> None:
    """One that began later may be over sooner, or when nothing has run for long."""
    handler, _ = await bench.ready()
    began = trio.current_time()
    limits = {"tx1": 300.0, "tx2": 30.0, "tx3": 40.0, "tx4": 5.0}
    executions = {tx: execute(handler, params(tx), limit_s=limits[tx]) for tx in limits}
    over: dict[str, float] = {}
    for tx in ("tx4", "tx2", "tx3", "tx1"):
        assert isinstance(await executions[tx].error(), ExecuteTimeout)
        over[tx] = trio.current_time() - began
    assert over == pytest.approx(limits)
    await trio.sleep(1000)
    began = trio.current_time()
    assert isinstance(await execute(handler, params(), limit_s=7.0).error(), ExecuteTimeout)
    assert trio.current_time() - began == pytest.approx(7)
