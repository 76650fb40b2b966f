"""Real process trees: what stop, exit, cancellation and trouble with the keeper leave behind."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from runtimes.api import ExitStatus, RuntimeUnavailable
from runtimes.process import link, runtime
from tests.contract.harness import (
    BROOD,
    BROOD_SIZE,
    DEAF,
    DEAF_BROOD,
    LIMIT_S,
    ORPHANS,
    SERVES,
    ProcessHarness,
    cancelled_at_step,
    keepers,
    processes_of,
    processes_with,
    until,
)

SAYS_BYE = "trap 'echo bye; exit 0' TERM\necho up\nwhile :; do sleep 1000 & wait; done"


@pytest.mark.parametrize("script", [BROOD, DEAF_BROOD], ids=["polite", "deaf"])
async def test_stop_ends_children_sessions_and_orphans(tmp_path: Path, script: str) -> None:
    harness = ProcessHarness(tmp_path, {"stopGrace": "100ms"})
    async with harness.open() as backend:
        instance = await backend.start(harness.spec(script))
        other_mark = uuid.uuid4().hex
        await backend.start(
            replace(harness.spec(SERVES, "other:1"), env={"CONTRACT_MARK": other_mark})
        )
        await until(lambda: len(harness.left()) >= BROOD_SIZE and harness.is_up())
        await instance.stop()
        assert not harness.left()
        assert len(processes_with(other_mark)) == 1
        assert len(harness.directories()) == 1


async def test_an_exit_ends_what_is_left_of_the_tree(harness: ProcessHarness) -> None:
    async with harness.open() as backend:
        instance = await backend.start(harness.spec(ORPHANS))
        assert await instance.wait() == ExitStatus(code=3)
        assert instance.tail()[0] == "last"  # a shell may remark on the killing
        await until(lambda: not harness.left() and not harness.directories())


async def test_a_deaf_process_is_killed_after_its_grace(tmp_path: Path) -> None:
    harness = ProcessHarness(tmp_path, {"stopGrace": "200ms"})
    async with harness.open() as backend:
        instance = await backend.start(harness.spec(DEAF))
        await until(harness.is_up)
        before = trio.current_time()
        await instance.stop()
        assert 0.2 <= trio.current_time() - before < LIMIT_S
        assert await instance.wait() == ExitStatus(signal=signal.SIGKILL)


async def test_output_during_the_grace_is_kept(harness: ProcessHarness) -> None:
    async with harness.open() as backend:
        instance = await backend.start(harness.spec(SAYS_BYE))
        await until(harness.is_up)
        await instance.stop()
        assert await instance.wait() == ExitStatus(code=0)
        assert instance.tail() == ("up", "bye")


async def test_cancellation_of_the_peer_still_grants_the_grace(harness: ProcessHarness) -> None:
    with trio.CancelScope() as scope:
        async with harness.open() as backend:
            instance = await backend.start(harness.spec(SAYS_BYE))
            await until(harness.is_up)
            scope.cancel()
            await trio.sleep_forever()
    assert await instance.wait() == ExitStatus(code=0)
    assert not keepers()


async def test_opening_and_starting_can_be_cancelled_anywhere(tmp_path: Path) -> None:
    async def open_and_start(harness: ProcessHarness) -> None:
        async with harness.open() as backend:
            await backend.start(harness.spec(SERVES))

    step = 0
    finished = False
    while not finished:
        step += 1
        (directory := tmp_path / str(step)).mkdir()
        harness = ProcessHarness(directory)
        finished = await cancelled_at_step(step, partial(open_and_start, harness))
        left = (harness.left(), keepers(), harness.directories())
        assert left == (set(), set(), []), f"cancelled at step {step}"
    assert step > 5


async def test_a_start_that_is_overtaken_by_a_stop_fails(harness: ProcessHarness) -> None:
    async with harness.open() as backend:
        await backend.health()
        (keeper,) = keepers()
        os.kill(keeper, signal.SIGSTOP)  # holds the first start at its spawn
        async with trio.open_nursery() as nursery:
            first = partial(backend.start, harness.spec(SERVES))
            nursery.start_soon(_expect, runtime.StartFailed, "stopped while it was starting", first)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(backend.start, harness.spec(SERVES))
            await trio.testing.wait_all_tasks_blocked()
            os.kill(keeper, signal.SIGCONT)
        await processes_of(harness, 1)
        assert len(harness.directories()) == 1


async def test_a_killed_keeper_ends_its_instances_and_is_replaced(harness: ProcessHarness) -> None:
    async with harness.open() as backend:
        instance = await backend.start(harness.spec(BROOD))
        await until(lambda: len(harness.left()) >= BROOD_SIZE and harness.is_up())
        (keeper,) = keepers()
        os.kill(keeper, signal.SIGKILL)
        with trio.fail_after(LIMIT_S):
            assert await instance.wait() == ExitStatus(signal=signal.SIGKILL)
            await instance.stop()
        assert not harness.left()
        await backend.health()
        await backend.start(harness.spec(SERVES))
        assert keepers() != {keeper}
        await processes_of(harness, 1)
    assert not harness.left()
    assert not keepers()


async def test_a_keeper_that_dies_fails_what_waits_for_it(harness: ProcessHarness) -> None:
    async with harness.open() as backend:
        await backend.health()
        (keeper,) = keepers()
        os.kill(keeper, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            for call in (partial(backend.start, harness.spec(SERVES)), backend.health):
                nursery.start_soon(_expect, RuntimeUnavailable, "keeper process died", call)
            await trio.testing.wait_all_tasks_blocked()
            os.kill(keeper, signal.SIGKILL)
        assert not harness.directories()
        await backend.health()


async def test_a_keeper_that_hangs_is_worked_around(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "KILL_LIMIT_S", 0.05)
    monkeypatch.setattr(runtime, "HEALTH_LIMIT_S", 0.05)
    monkeypatch.setattr(link, "END_S", 0.5)
    harness = ProcessHarness(tmp_path, {"stopGrace": "50ms"})
    async with harness.open() as backend:
        instance = await backend.start(harness.spec(SERVES))
        (keeper,) = keepers()
        os.kill(keeper, signal.SIGSTOP)
        with pytest.raises(RuntimeUnavailable, match="does not answer within"):
            await backend.health()
        await instance.stop()
        assert not harness.left()
        assert await instance.wait() == ExitStatus(signal=signal.SIGKILL)
    assert not keepers()


async def test_a_start_on_a_keeper_that_has_just_died_fails(harness: ProcessHarness) -> None:
    async with harness.open() as backend:
        await backend.health()
        (keeper,) = keepers()
        os.kill(keeper, signal.SIGKILL)  # and no pause in which the peer could learn of it
        with pytest.raises(RuntimeUnavailable, match="keeper process died"):
            await backend.start(harness.spec(SERVES))
        assert not harness.directories()
        await backend.start(harness.spec(SERVES))


async def test_processes_that_cannot_be_killed_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(tokens: object) -> None:
        raise RuntimeUnavailable("processes [7] survive SIGKILL")

    monkeypatch.setattr(runtime, "sweep", fail)
    monkeypatch.setattr(runtime, "KILL_LIMIT_S", 0.05)
    monkeypatch.setattr(link, "sweep", fail)
    monkeypatch.setattr(link, "END_S", 0.2)
    harness = ProcessHarness(tmp_path, {"stopGrace": "50ms"})
    async with harness.open() as backend:
        instance = await backend.start(harness.spec(SERVES))
        (keeper,) = keepers()
        os.kill(keeper, signal.SIGSTOP)
        with pytest.raises(RuntimeUnavailable, match="survive SIGKILL"):
            await instance.stop()
        with pytest.raises(RuntimeUnavailable, match="survive SIGKILL"):
            await backend.start(harness.spec(SERVES))
        await processes_of(harness, 1)
    with trio.fail_after(LIMIT_S):
        await instance.wait()
    assert "stop of asset:1.0 failed: processes [7] survive SIGKILL" in caplog.messages
    assert "asset:1.0 could not be ended: processes [7] survive SIGKILL" in caplog.messages
    await until(lambda: not harness.left())  # the death of their keeper ended them


async def _expect(kind: type[Exception], text: str, call: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(kind, match=text):
        await call()
