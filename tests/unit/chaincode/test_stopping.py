"""The end of what was launched: by itself, by stop, by the end of the peer."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fabric_protos.stream import ChaincodeId, ChaincodeInput
from peer.chaincode.launcher import LaunchLimits
from peer.chaincode.registry import EXIT_GRACE_S
from peer.errors import (
    ExecuteTimeout,
    LaunchError,
    PeerClosing,
    StartupTimeout,
    StreamLost,
)
from runtimes.api import ChaincodePackage, ExitStatus
from tests.fakes.runtime import (
    FakeRuntime,
    HangsInStart,
    HangsInStop,
    NeverReadyRuntime,
)
from tests.fakes.stream import Type

from .conftest import params
from .house import Call, Caller, open_house, registering

CCID = "asset:9f2"


async def test_an_exit_after_ready_lets_the_next_call_start_anew(autojump_clock: MockClock) -> None:
    runtime = FakeRuntime()
    async with open_house(runtime) as house:
        house.play(CCID, registering(CCID))
        first = await house.support.launch(CCID)
        house.chaincodes[CCID].close()
        runtime.started[0].exit(ExitStatus(code=0))
        await wait_all_tasks_blocked()
        assert house.registry.launch(CCID) is None
        assert await house.support.launch(CCID) is not first
        assert len(runtime.started) == 2


async def test_a_process_that_outlives_its_stream_is_stopped(autojump_clock: MockClock) -> None:
    runtime = FakeRuntime()
    async with open_house(runtime) as house:
        house.play(CCID, registering(CCID))
        await house.support.launch(CCID)
        began = trio.current_time()
        house.chaincodes[CCID].close()
        await wait_all_tasks_blocked()
        assert (await house.support.launch(CCID)).is_ready
        assert trio.current_time() - began == pytest.approx(EXIT_GRACE_S)
        assert len(runtime.running) == 1


async def test_an_exit_that_follows_the_end_of_the_stream_is_told(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = FakeRuntime()
    async with open_house(runtime) as house:
        house.play(CCID, registering(CCID))
        await house.support.launch(CCID)
        house.chaincodes[CCID].close()
        await trio.sleep(EXIT_GRACE_S / 2)
        runtime.started[0].exit(ExitStatus(signal=9, oom_killed=True))
        await wait_all_tasks_blocked()
        assert house.registry.launch(CCID) is None
    assert f"{CCID} ended: killed: out of memory" in caplog.text


async def test_a_launch_waits_for_the_end_of_the_former_one(
    call: Caller, autojump_clock: MockClock
) -> None:
    runtime = HangsInStop()
    async with open_house(runtime) as house:
        house.play(CCID, registering(CCID))
        await house.support.launch(CCID)
        began = trio.current_time()
        house.chaincodes[CCID].close()
        await wait_all_tasks_blocked()
        calls = [call(house.support.launch, CCID) for _ in range(3)]
        await trio.sleep(9)
        assert len(runtime.started) == 1
        runtime.started[0].exit(ExitStatus(signal=9))  # or the fake would wait for it too
        handlers = {await each.value() for each in calls}
        assert len(handlers) == 1
        assert trio.current_time() - began == pytest.approx(EXIT_GRACE_S + 10.0)
        assert len(runtime.started) == 2
        for instance in runtime.started:
            instance.exit(ExitStatus(signal=9))


async def test_a_stop_that_hangs_is_given_up(call: Caller, autojump_clock: MockClock) -> None:
    runtime = HangsInStop()
    async with open_house(runtime, limits=LaunchLimits(startup_s=5.0, stop_s=3.0)) as house:
        launch = call(house.support.launch, CCID)
        assert isinstance(await launch.error(), StartupTimeout)
        assert launch.took_s == pytest.approx(8.0)
        assert house.registry.launch(CCID) is None
    [instance] = runtime.started
    assert instance.stops == 1


class TestStop:
    async def test_of_nothing(self, autojump_clock: MockClock) -> None:
        async with open_house(FakeRuntime()) as house:
            await house.support.stop(CCID)

    async def test_of_what_runs(self, autojump_clock: MockClock) -> None:
        runtime = FakeRuntime()
        async with open_house(runtime) as house:
            house.play(CCID, registering(CCID))
            await house.support.launch(CCID)
            await house.support.stop(CCID)
            assert runtime.running == set()
            assert house.registry.handler(CCID) is None
            assert house.chaincodes[CCID].ended.is_set()

    async def test_of_what_is_retired(self, call: Caller, autojump_clock: MockClock) -> None:
        runtime = FakeRuntime()
        async with open_house(runtime) as house:
            await house.support.retire(CCID, lambda ccid: False)
            house.play(CCID, registering(CCID))
            handler = await house.support.launch(CCID)
            began = trio.current_time()
            execution = call(handler.execute, Type.TRANSACTION, params(), ChaincodeInput(), 30.0)
            await wait_all_tasks_blocked()
            await house.support.retire(CCID, lambda ccid: ccid != CCID)
            assert trio.current_time() - began == pytest.approx(30.0)
            assert isinstance(await execution.error(), ExecuteTimeout)
            assert runtime.running == set()

    async def test_of_what_is_retired_and_wanted_again(
        self, call: Caller, autojump_clock: MockClock
    ) -> None:
        runtime = FakeRuntime()
        async with open_house(runtime) as house, trio.open_nursery() as nursery:
            house.play(CCID, registering(CCID))
            handler = await house.support.launch(CCID)
            execution = call(handler.execute, Type.TRANSACTION, params(), ChaincodeInput(), 30.0)
            await wait_all_tasks_blocked()
            wanted: set[str] = set()
            nursery.start_soon(house.support.retire, CCID, wanted.__contains__)
            await wait_all_tasks_blocked()
            wanted.add(CCID)
            assert isinstance(await execution.error(), ExecuteTimeout)
            await wait_all_tasks_blocked()
            assert house.registry.handler(CCID) is handler
            assert len(runtime.running) == 1

    async def test_of_what_is_launching(self, call: Caller, autojump_clock: MockClock) -> None:
        runtime = NeverReadyRuntime()
        async with open_house(runtime) as house:
            launch = call(house.support.launch, CCID)
            await wait_all_tasks_blocked()
            await house.support.stop(CCID)
            assert runtime.running == set()
            error = await launch.error()
            assert type(error) is LaunchError
            assert "it was stopped" in str(error)

    async def test_of_what_has_not_even_begun(
        self, call: Caller, autojump_clock: MockClock
    ) -> None:
        runtime = FakeRuntime()
        async with open_house(runtime) as house:
            launch = call(house.support.launch, CCID)
            while house.registry.launch(CCID) is None:
                await trio.lowlevel.checkpoint()
            await house.support.stop(CCID)
            assert "it was stopped" in str(await launch.error())
            assert runtime.running == set()

    async def test_twice_at_once(self, call: Caller, autojump_clock: MockClock) -> None:
        runtime = FakeRuntime()
        async with open_house(runtime) as house:
            house.play(CCID, registering(CCID))
            await house.support.launch(CCID)
            for each in [call(house.support.stop, CCID) for _ in range(2)]:
                await each.value()

    async def test_that_is_cancelled_goes_on(self, call: Caller, autojump_clock: MockClock) -> None:
        runtime = FakeRuntime()
        async with open_house(runtime) as house:
            house.play(CCID, registering(CCID))
            await house.support.launch(CCID)
            with trio.CancelScope() as scope:
                scope.cancel()
                await house.support.stop(CCID)
            assert scope.cancelled_caught
            await wait_all_tasks_blocked()
            assert runtime.running == set()


class HangsInBuild(FakeRuntime):
    """Its `build` never returns."""

    async def build(self, package: ChaincodePackage) -> None:
        await trio.sleep_forever()


@pytest.mark.parametrize("runtime", [HangsInBuild(), HangsInStart(), NeverReadyRuntime()])
async def test_a_peer_that_closes_tells_who_waits(
    call: Caller, runtime: FakeRuntime, autojump_clock: MockClock
) -> None:
    waiting: list[Call] = []
    async with open_house(runtime) as house:
        waiting += [call(house.support.launch, CCID) for _ in range(2)]
        await wait_all_tasks_blocked()
    for each in waiting:
        error = await each.error()
        assert isinstance(error, PeerClosing)
        assert "the peer is shutting down" in str(error)
    assert runtime.running == set()


async def test_a_ready_that_is_lost_in_the_same_moment(
    call: Caller, autojump_clock: MockClock
) -> None:
    runtime = NeverReadyRuntime()
    async with open_house(runtime) as house:
        launch = call(house.support.launch, CCID)
        await wait_all_tasks_blocked()
        chaincode = house.connect(runtime.started[0])
        await wait_all_tasks_blocked()
        chaincode.send(Type.REGISTER, ChaincodeId(name=CCID).encode())
        chaincode.close()
        error = await launch.error()
        assert isinstance(error, StreamLost)
        await wait_all_tasks_blocked()
        assert runtime.running == set()
