"""Executions that go wrong: each fails by its own error, soon, and spares the others."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

import pytest
import trio

from fabric_protos.stream import ChaincodeMessageType as Type
from peer import Peer
from peer.errors import ExecuteError, ExecuteTimeout, InstanceExited, LaunchError, StreamTerminated
from tests.integration.peer.scene import (
    CHANNEL,
    SOON_S,
    Code,
    processes,
    soon,
    vanished,
    watched_peer,
)


async def ask(peer: Peer, name: str, *args: str) -> str:
    result = await peer.query(CHANNEL, name, args)
    assert (result.status, result.message) == (200, "")
    return result.payload.decode()


async def test_a_chaincode_over_the_limit_stays_healthy(code: Code) -> None:
    """Its late writes are refused and its late answer is ignored."""
    source = code.book()
    async with watched_peer(execute_s=0.5) as (peer, watch):
        package = await peer.install(source)
        pid = await ask(peer, source.name, "pid")
        await peer.invoke(CHANNEL, source.name, ["put", "count", "7"])
        with soon(2), pytest.raises(ExecuteTimeout) as caught:
            await peer.invoke(CHANNEL, source.name, ["add_when", "count", "told"])
        assert caught.value.limit_s == 0.5
        height = peer.ledger(CHANNEL).height
        assert await ask(peer, source.name, "release", "told") == "ok"
        late = await watch.message(Type.PUT_STATE, b"count\x12\x018")
        assert late.txid == caught.value.key.tx_id
        answer = await watch.message(Type.COMPLETED, b"no ledger context")
        assert answer.txid == caught.value.key.tx_id
        assert await ask(peer, source.name, "get", "count") == "7"
        assert peer.ledger(CHANNEL).height == height
        assert await ask(peer, source.name, "pid") == pid
        assert await peer.chaincode.launch(package.ccid)


async def test_fifty_callers_fail_at_once_when_the_process_is_killed(code: Code) -> None:
    source = code.book()
    async with watched_peer() as (peer, watch):
        await peer.install(source)
        pid = int(await ask(peer, source.name, "pid"))
        errors: list[ExecuteError] = []

        async def hold() -> None:
            with pytest.raises(StreamTerminated) as caught:
                await peer.query(CHANNEL, source.name, ["hold"])
            errors.append(caught.value)

        async with trio.open_nursery() as callers:
            for _ in range(50):
                callers.start_soon(hold)
            for _ in range(50):
                await watch.message(Type.GET_STATE, b"holding")
            killed = trio.current_time()
            os.kill(pid, signal.SIGKILL)
        assert trio.current_time() - killed < 2
        assert len({error.key for error in errors}) == 50
        assert all("chaincode stream terminated" in str(error) for error in errors)
        with soon():
            assert int(await ask(peer, source.name, "pid")) != pid  # the next call launches it


async def test_a_chaincode_killed_while_it_iterates(code: Code) -> None:
    """The iterator goes with the transaction; the ledger works on."""
    source = code.book()
    async with watched_peer() as (peer, _):
        await peer.install(source)
        await peer.invoke(CHANNEL, source.name, ["fill", "250"])
        for signum in ("SIGKILL", "SIGTERM"):
            with soon(2), pytest.raises(StreamTerminated):
                await peer.invoke(CHANNEL, source.name, ["die_in_range", signum])
            with soon():
                assert await ask(peer, source.name, "count_rows") == "250"


@pytest.mark.parametrize("way", [["exit", "3"], ["exit", "0"], ["hang_up"]], ids=" ".join)
async def test_a_chaincode_that_leaves_in_a_transaction(code: Code, way: Sequence[str]) -> None:
    source = code.book()
    async with watched_peer() as (peer, _):
        await peer.install(source)
        pid = await ask(peer, source.name, "pid")
        with soon(2), pytest.raises(StreamTerminated) as caught:
            await peer.invoke(CHANNEL, source.name, way)
        assert type(caught.value) is StreamTerminated
        await vanished(source.name)
        with soon():
            assert await ask(peer, source.name, "pid") != pid


async def noticed(log: pytest.LogCaptureFixture, ccid: str) -> None:
    """Wait until the peer knows that a chaincode has gone."""
    with trio.fail_after(SOON_S):
        while f"stream of {ccid} ended" not in log.text:  # noqa: ASYNC110 - a log has no event
            await trio.sleep(0.005)
    log.clear()


async def test_a_chaincode_that_exits_between_transactions_is_launched_by_the_next(
    code: Code, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "peer.chaincode")
    source = code.book()
    async with watched_peer() as (peer, watch):
        package = await peer.install(source)
        pids = set()
        for _ in range(3):
            pids.add(await ask(peer, source.name, "pid"))
            result = await peer.query(CHANNEL, source.name, ["exit_afterwards", "0"])
            assert result.payload == b"bye"
            await noticed(caplog, package.ccid)
        assert len(pids) == 3
        for _ in range(3):
            await watch.stage(source.name, "ready")


async def test_one_that_exits_and_cannot_come_back_is_a_launch_error(
    code: Code, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "peer.chaincode")
    source = code.book()
    async with watched_peer() as (peer, _):
        package = await peer.install(source)
        await peer.query(CHANNEL, source.name, ["exit_afterwards", "0"])
        (source / "wire.py").unlink()
        await noticed(caplog, package.ccid)
        with soon(), pytest.raises(InstanceExited) as caught:
            await ask(peer, source.name, "pid")
        assert "ModuleNotFoundError: No module named 'wire'" in str(caught.value)


async def test_a_dead_leader_takes_its_children_along(code: Code) -> None:
    main = """
        import subprocess
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])

        async def answer(stub, args):
            os.kill(os.getpid(), 9)

        await wire.chaincode(answer)
    """
    source = code.python(main)
    async with watched_peer() as (peer, _):
        await peer.install(source)
        with soon(), pytest.raises(StreamTerminated):
            await peer.query(CHANNEL, source.name, ["go"])
        await vanished(source.name)


async def test_an_oversized_message_ends_the_stream(code: Code) -> None:
    source = code.book()
    async with watched_peer(max_recv_msg_size=1_000_000) as (peer, _):
        await peer.install(source)
        assert len(await ask(peer, source.name, "big", "900000")) == 900_000
        with soon(), pytest.raises(StreamTerminated, match="larger than max"):
            await peer.query(CHANNEL, source.name, ["big", "1000000"])
        with soon():
            assert len(await ask(peer, source.name, "big", "10")) == 10


async def test_a_request_for_an_unknown_transaction_is_answered_with_an_error(code: Code) -> None:
    source = code.book()
    async with watched_peer() as (peer, _):
        await peer.install(source)
        pid = await ask(peer, source.name, "pid")
        assert await ask(peer, source.name, "stray_request") == (
            "ERROR GET_STATE failed: transaction ID: nobody-knows: no ledger context"
        )
        assert await ask(peer, source.name, "pid") == pid


async def test_a_cancelled_caller_leaves_the_chaincode_healthy(code: Code) -> None:
    source = code.book()
    async with watched_peer() as (peer, watch):
        await peer.install(source)
        pid = await ask(peer, source.name, "pid")
        async with trio.open_nursery() as caller:
            caller.start_soon(ask, peer, source.name, "hold")
            await watch.message(Type.GET_STATE, b"holding")
            caller.cancel_scope.cancel()
        assert await ask(peer, source.name, "pid") == pid


async def test_stop_fails_what_runs_and_leaves_nothing(code: Code) -> None:
    source = code.book()
    async with watched_peer() as (peer, watch):
        package = await peer.install(source)
        async with trio.open_nursery() as callers:

            async def hold() -> None:
                with pytest.raises(StreamTerminated):
                    await peer.query(CHANNEL, source.name, ["hold"])

            callers.start_soon(hold)
            await watch.message(Type.GET_STATE, b"holding")
            with soon():
                await peer.chaincode.stop(package.ccid)
            assert processes(source.name) == {}
        assert await ask(peer, source.name, "get", "key") == ""
        with pytest.raises(LaunchError, match="not found"):
            await peer.chaincode.launch("nothing:1")
