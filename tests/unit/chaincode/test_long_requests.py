"""Requests that take time, and how they end with their execution."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from fabric_protos.stream import (
    ChaincodeId,
    ChaincodeInput,
    ChaincodeMessage,
    ChaincodeSpec,
    GetStateByRange,
)
from peer.chaincode.handler import Handler
from peer.errors import ExecuteTimeout
from peer.ledger.api import KV, Ledger
from tests.fakes.stream import FakeChaincode, Type

from .conftest import Bench, Execution, Executor, params

INVOKE = ChaincodeSpec(chaincode_id=ChaincodeId(name="other"), input=ChaincodeInput()).encode()


def ask_at_once(handler: Handler, kind: int = Type.INVOKE_CHAINCODE) -> None:
    """Let a request arrive now, before any other task runs; the moment cannot be hit otherwise."""
    request = ChaincodeMessage(type=kind, payload=INVOKE, txid="tx1", channel_id="ch1")
    handler._on_message(request.encode())


async def begin(
    bench: Bench, execute: Executor, limit_s: float = 30.0
) -> tuple[Handler, FakeChaincode, Execution]:
    handler, chaincode = await bench.ready()
    execution = execute(handler, params(), limit_s=limit_s)
    await chaincode.receive(Type.TRANSACTION)
    return handler, chaincode, execution


async def is_cut_off(chaincode: FakeChaincode) -> None:
    answer = await chaincode.receive(Type.ERROR)
    assert answer.payload == b"INVOKE_CHAINCODE failed: transaction ID: tx1: no ledger context"


@pytest.mark.parametrize("runs", [True, False])
async def test_a_cancelled_caller_leaves_no_request_without_an_answer(
    bench: Bench, execute: Executor, runs: bool
) -> None:
    handler, chaincode, execution = await begin(bench, execute)
    ask_at_once(handler)
    if runs:
        await wait_all_tasks_blocked()
    execution.scope.cancel()
    await execution.done.wait()
    assert execution.outcome is None
    await is_cut_off(chaincode)
    assert chaincode.nothing_waits()


async def test_a_request_may_come_after_the_cancellation(bench: Bench, execute: Executor) -> None:
    handler, chaincode, execution = await begin(bench, execute)
    execution.scope.cancel()
    ask_at_once(handler)
    await execution.done.wait()
    assert execution.outcome is None
    await is_cut_off(chaincode)


@pytest.mark.parametrize("passes", range(5))
@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_a_request_may_come_while_an_execution_ends(
    bench: Bench, execute: Executor, passes: int, is_cancelled: bool
) -> None:
    bench.hold_calls.set()
    handler, chaincode, execution = await begin(bench, execute)
    assert (await chaincode.ask(Type.INVOKE_CHAINCODE, INVOKE)).payload == b"called"
    bench.hold_calls = trio.Event()
    await wait_all_tasks_blocked()
    if is_cancelled:
        execution.scope.cancel()
    else:
        completed = ChaincodeMessage(type=Type.COMPLETED, txid="tx1", channel_id="ch1")
        handler._on_message(completed.encode())
    for _ in range(passes):
        await trio.lowlevel.checkpoint()
    ask_at_once(handler)
    await execution.done.wait()
    await is_cut_off(chaincode)
    assert chaincode.nothing_waits()


@pytest.mark.parametrize("order", ["outcome first", "request first", "request runs"])
async def test_the_outcome_ends_requests(bench: Bench, execute: Executor, order: str) -> None:
    handler, chaincode, execution = await begin(bench, execute)
    completed = ChaincodeMessage(type=Type.COMPLETED, txid="tx1", channel_id="ch1").encode()
    if order == "outcome first":
        handler._on_message(completed)
        ask_at_once(handler)
    else:
        ask_at_once(handler)
        if order == "request runs":
            await wait_all_tasks_blocked()
        handler._on_message(completed)
    outcome = await execution.result()
    assert isinstance(outcome, ChaincodeMessage)
    assert outcome.type == Type.COMPLETED
    await is_cut_off(chaincode)


async def test_the_limit_runs_from_the_beginning_on(
    bench: Bench, execute: Executor, autojump_clock: object
) -> None:
    began = trio.current_time()
    handler, chaincode, execution = await begin(bench, execute, limit_s=30.0)
    await trio.sleep(20)
    ask_at_once(handler)
    assert isinstance(await execution.error(), ExecuteTimeout)
    assert trio.current_time() - began == pytest.approx(30)
    await is_cut_off(chaincode)


async def test_at_a_debugger_requests_go_on(
    bench: Bench, execute: Executor, autojump_clock: object
) -> None:
    bench.is_debugged = lambda: True
    handler, chaincode, execution = await begin(bench, execute, limit_s=30.0)
    ask_at_once(handler)
    await trio.sleep(100)
    bench.hold_calls.set()
    assert (await chaincode.receive(Type.RESPONSE)).payload == b"called"
    chaincode.complete()
    assert isinstance(await execution.result(), ChaincodeMessage)


async def test_one_follows_another(bench: Bench, execute: Executor) -> None:
    bench.hold_calls.set()
    _, chaincode, execution = await begin(bench, execute)
    for _ in range(3):
        answer = await chaincode.ask(Type.INVOKE_CHAINCODE, INVOKE)
        assert answer.payload == b"called"
    chaincode.complete()
    assert isinstance(await execution.result(), ChaincodeMessage)


class Results:
    """Records that never come; notes what happens in which order."""

    def __init__(self, events: list[str]) -> None:
        self._events = events

    async def take(self, count: int) -> Sequence[KV]:
        try:
            await trio.sleep_forever()
        finally:
            self._events.append("the request has ended")

    def bookmark(self) -> str:
        return ""

    def close(self) -> None:
        self._events.append("the results are closed")


async def test_requests_end_before_their_results_are_closed(
    bench: Bench, execute: Executor, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    handler, chaincode = await bench.ready()
    simulator = ledger.new_tx_simulator("tx1")
    monkeypatch.setattr(simulator, "get_state_range", lambda *_: Results(events))
    execution = execute(handler, params(simulator=simulator))
    await chaincode.receive(Type.TRANSACTION)
    chaincode.send(Type.GET_STATE_BY_RANGE, GetStateByRange().encode(), tx="tx1", channel="ch1")
    await wait_all_tasks_blocked()
    execution.scope.cancel()
    await execution.done.wait()
    assert events == ["the request has ended", "the results are closed"]
    simulator.done()
