"""The rules of `runtimes.api`, for every backend and every fake that can be asked to keep them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest
import trio

from runtimes.api import (
    ExitStatus,
    Instance,
    RuntimeBackend,
    Stage,
    StartFailed,
    UnixOrigin,
)
from tests.contract.harness import (
    EXITS,
    LIMIT_S,
    SERVES,
    Harness,
    cancelled_at_step,
    processes_of,
    stranger,
)

REAL = ["process", "docker", "podman"]
everyone = pytest.mark.parametrize(
    "harness",
    [*REAL, "fake_engine", "fake", "never_ready", "exits", "hangs_in_start", "fails_to_start"],
    indirect=True,
)
holds = pytest.mark.parametrize(
    "harness", [*REAL, "fake_engine", "fake", "never_ready"], indirect=True
)
exits = pytest.mark.parametrize("harness", [*REAL, "fake_engine", "fake"], indirect=True)
each_step = pytest.mark.parametrize(
    "harness", ["process", "fake_engine", "fake", "never_ready"], indirect=True
)


@everyone
async def test_health_returns_while_the_backend_is_open(harness: Harness) -> None:
    async with harness.open() as backend:
        with trio.fail_after(LIMIT_S):
            await backend.health()


@holds
async def test_an_instance_runs_until_it_is_stopped(harness: Harness) -> None:
    async with harness.open() as backend:
        await backend.build((spec := harness.spec(SERVES)).package)
        instance = await backend.start(spec)
        await processes_of(harness, 1)
        seen: list[ExitStatus] = []
        async with trio.open_nursery() as waiting:
            for _ in range(3):
                waiting.start_soon(_append_status, instance, seen)
            await trio.testing.wait_all_tasks_blocked()
            assert not seen
            await instance.stop()
            assert not harness.left()
        assert seen == [harness.stopped] * 3
        assert await instance.wait() == harness.stopped


async def _append_status(instance: Instance, seen: list[ExitStatus]) -> None:
    seen.append(await instance.wait())


@holds
async def test_stop_may_be_called_twice_and_at_once(harness: Harness) -> None:
    async with harness.open() as backend:
        instance = await backend.start(harness.spec(SERVES))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(instance.stop)
            nursery.start_soon(instance.stop)
        await instance.stop()
        assert not harness.left()


@holds
async def test_a_cancelled_stop_still_stops(harness: Harness) -> None:
    async with harness.open() as backend:
        instance = await backend.start(harness.spec(SERVES))
        with trio.CancelScope() as scope:
            scope.cancel()
            await instance.stop()
        assert not harness.left()
        await instance.wait()


@exits
async def test_an_exit_tells_its_status_and_last_output(harness: Harness) -> None:
    async with harness.open() as backend:
        instance = await backend.start(harness.spec(EXITS))
        assert await instance.wait() == ExitStatus(code=3)
        assert instance.tail() == ("first", "last")
        assert harness.lines == [("asset:1.0", "first"), ("asset:1.0", "last")]
        await instance.stop()
        assert not harness.left()
        assert await instance.wait() == ExitStatus(code=3)


@holds
async def test_starts_of_different_chaincodes_are_independent(harness: Harness) -> None:
    started: dict[str, Instance] = {}

    async def start(backend: RuntimeBackend, ccid: str) -> None:
        started[ccid] = await backend.start(harness.spec(SERVES, ccid))

    async with harness.open() as backend:
        async with trio.open_nursery() as nursery:
            for ccid in ("a:1", "b:1", "c:1", "d:1"):
                nursery.start_soon(start, backend, ccid)
        await processes_of(harness, 4)
        await started["b:1"].stop()
        assert len(harness.left()) == 3


@holds
async def test_a_start_first_ends_the_former_of_that_name(harness: Harness) -> None:
    async with harness.open() as backend:
        former = await backend.start(harness.spec(SERVES))
        (before,) = await processes_of(harness, 1)
        await backend.start(harness.spec(SERVES))
        (after,) = await processes_of(harness, 1)
        assert before != after
        with trio.fail_after(LIMIT_S):
            await former.wait()


@holds
async def test_starts_of_one_name_at_once_leave_one_running(harness: Harness) -> None:
    async def start(backend: RuntimeBackend) -> None:
        with suppress(StartFailed):  # another start took its place
            await backend.start(harness.spec(SERVES))

    async with harness.open() as backend:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(start, backend)
        await processes_of(harness, 1)


@holds
@pytest.mark.parametrize("files", [{}, {"/etc/hyperledger/fabric/client.key": b"secret"}])
async def test_a_start_tells_its_stages(harness: Harness, files: dict[str, bytes]) -> None:
    stages: list[Stage] = []
    async with harness.open() as backend:
        spec = replace(harness.spec(SERVES), files=files, on_stage=stages.append)
        await backend.build(spec.package)
        assert stages == []
        await backend.start(spec)
        assert stages == (["upload", "start"] if files else ["start"])


@each_step  # a real engine's are in test_containers_trouble
async def test_a_start_that_is_cancelled_anywhere_leaves_nothing(harness: Harness) -> None:
    async with harness.open() as backend:
        step = 0
        finished = False
        while not finished:
            step += 1
            finished = await cancelled_at_step(step, partial(backend.start, harness.spec(SERVES)))
            assert finished or not harness.left(), f"cancelled at step {step}"
        await processes_of(harness, 1)
        assert step > 1


@holds
async def test_leaving_the_backend_ends_every_instance(harness: Harness) -> None:
    async with harness.open() as backend:
        instances = [await backend.start(harness.spec(SERVES, f"{n}:1")) for n in range(3)]
    assert not harness.left()
    for instance in instances:
        with trio.fail_after(LIMIT_S):
            await instance.wait()


@holds
async def test_leaving_by_an_exception_raises_that_exception(harness: Harness) -> None:
    with pytest.raises(KeyError, match="mine"):  # noqa: PT012 - the block is what is tested
        async with harness.open() as backend:
            await backend.start(harness.spec(SERVES))
            raise KeyError("mine")
    assert not harness.left()


@holds
async def test_leaving_by_cancellation_leaves_nothing(harness: Harness) -> None:
    with trio.CancelScope() as scope:
        async with harness.open() as backend:
            await backend.start(harness.spec(SERVES))
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert not harness.left()


@holds
async def test_an_instance_owns_its_own_connections_only(harness: Harness) -> None:
    async with harness.open() as backend, stranger() as foreign:
        instance = await backend.start(harness.spec(SERVES))
        origin = await harness.origin(instance)
        assert await instance.owns(origin)
        for other in foreign:
            assert not await instance.owns(other)
        assert not await instance.owns(UnixOrigin(pid=0, uid=0))
        await instance.stop()
        assert not await instance.owns(origin)


@pytest.mark.parametrize("harness", ["exits"], indirect=True)
async def test_one_that_exits_at_once_says_why(harness: Harness) -> None:
    async with harness.open() as backend:
        instance = await backend.start(harness.spec(SERVES))
        assert await instance.wait() == ExitStatus(code=1)
        assert instance.tail()[-1].startswith("SyntaxError")
        assert not harness.left()


@pytest.mark.parametrize("harness", ["fails_to_start"], indirect=True)
async def test_a_start_that_fails_leaves_nothing(harness: Harness) -> None:
    async with harness.open() as backend:
        with pytest.raises(StartFailed, match="No such file or directory"):
            await backend.start(harness.spec(SERVES))
        assert not harness.left()


@pytest.mark.parametrize("harness", ["hangs_in_start"], indirect=True)
async def test_a_start_that_hangs_can_be_cancelled(
    harness: Harness, autojump_clock: trio.testing.MockClock
) -> None:
    async with harness.open() as backend:
        with trio.move_on_after(300) as limit:
            await backend.start(harness.spec(SERVES))
        assert limit.cancelled_caught
        assert not harness.left()


@pytest.mark.parametrize("harness", ["hangs_in_stop"], indirect=True)
async def test_a_stop_that_hangs_can_be_bounded_and_hides_nothing(
    harness: Harness, autojump_clock: trio.testing.MockClock
) -> None:
    async with harness.open() as backend:
        instance = await backend.start(harness.spec(SERVES))
        with trio.move_on_after(10) as limit:
            await instance.stop()
        assert limit.cancelled_caught
        assert harness.left()
