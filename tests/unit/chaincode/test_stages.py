"""What a launch tells of itself: its stages, in order, with their times, on every way out."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import pytest
import trio
from trio.testing import MockClock

from fabric_protos.stream import ChaincodeInput
from peer import logs
from peer.chaincode.connections import ChaincodeServerInfo
from peer.chaincode.launcher import LaunchLimits
from peer.errors import (
    BuildError,
    ConnectError,
    ExecuteTimeout,
    InstanceExited,
    LaunchError,
    PeerClosing,
    StageTime,
    StartError,
    StartupTimeout,
    StreamLost,
)
from runtimes.api import BuildFailed, ChaincodePackage, ExitStatus, InstanceSpec, StartFailed
from tests.fakes.runtime import FakeInstance, FakeRuntime, HangsInStop
from tests.fakes.stream import FakeChaincode

from .conftest import params
from .house import Call, Caller, House, open_house

CCID = "asset:9f2"
STAGES = (
    ("package", 0.0),
    ("build", 7.0),
    ("create", 1.0),
    ("upload", 0.25),
    ("start", 2.0),
    ("connect", 3.0),
    ("register", 4.0),
)
READY_S = 17.25


class Measured(FakeRuntime):
    """Takes a known time for each stage.

    Attributes:
        fails_in: stage that raises at its end.
        rebuilds: seconds that a build takes in the midst of a start.
    """

    fails_in = ""
    rebuilds = 0.0

    async def build(self, package: ChaincodePackage) -> None:
        await trio.sleep(7.0)
        if self.fails_in == "build":
            raise BuildFailed("no such module")

    async def before_start(self, spec: InstanceSpec) -> None:
        await trio.sleep(2.0)
        if self.fails_in == "start":
            raise StartFailed("no such command")

    async def start(self, spec: InstanceSpec) -> FakeInstance:
        await trio.sleep(1.0)
        if self.fails_in == "create":
            raise StartFailed("no such image")
        if self.rebuilds:
            spec.on_stage("build")
            await trio.sleep(self.rebuilds)
            spec.on_stage("create")
            await trio.sleep(0.5)
        spec.on_stage("upload")
        await trio.sleep(0.25)
        return await super().start(spec)


async def connects(house: House, instance: FakeInstance) -> None:
    """Connect after 3 s and register after 4 more."""
    await trio.sleep(3.0)
    chaincode = house.connect(instance)
    await trio.sleep(4.0)
    await chaincode.register(CCID)
    await trio.sleep_forever()


async def exits_unconnected(house: House, instance: FakeInstance) -> None:
    await trio.sleep(1.5)
    instance.exit(ExitStatus(code=3))


async def exits_connected(house: House, instance: FakeInstance) -> None:
    await trio.sleep(3.0)
    house.connect(instance)
    await trio.sleep(1.5)
    instance.exit(ExitStatus(code=3))


async def hangs_up(house: House, instance: FakeInstance) -> None:
    await trio.sleep(3.0)
    chaincode = house.connect(instance)
    await trio.sleep(1.5)
    chaincode.close()


async def never_connects(house: House, instance: FakeInstance) -> None:
    await trio.sleep_forever()


async def never_registers(house: House, instance: FakeInstance) -> None:
    await trio.sleep(3.0)
    house.connect(instance)
    await trio.sleep_forever()


def plays(house: House, part: Callable[[House, FakeInstance], Awaitable[None]]) -> None:
    house.runtime.on_start = lambda instance: house.instances.start_soon(part, house, instance)


def counted(house: House, name: str, **labels: str) -> float:
    return house.metrics.registry.value(name, **labels) or 0


async def test_a_launch_tells_its_stages_as_they_begin_and_their_times_at_the_end(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "peer.chaincode")
    async with open_house(Measured()) as house:
        plays(house, connects)
        await house.support.launch(CCID)
        assert house.stages == [
            ("package", 0.0),
            ("build", 0.0),
            ("create", 7.0),
            ("upload", 8.0),
            ("start", 8.25),
            ("connect", 10.25),
            ("register", 13.25),
            ("ready", READY_S),
        ]
        told = ", ".join(f"{stage} {took_s * 1e3:.1f} ms" for stage, took_s in STAGES)
        assert f"launch of {CCID}: ready after 17250.0 ms: {told}" in caplog.messages


async def test_a_build_in_the_midst_of_a_start_counts_as_build(autojump_clock: MockClock) -> None:
    runtime = Measured()
    runtime.rebuilds = 20.0
    async with open_house(runtime) as house:
        plays(house, connects)
        await house.support.launch(CCID)
        begun = ["package", "build", "create", "build", "create", "upload", "start"]
        assert [stage for stage, _ in house.stages][: len(begun)] == begun
        name = "triopeer_chaincode_launch_stage_seconds_sum"
        assert counted(house, name, stage="build") == 27.0
        assert counted(house, name, stage="create") == 1.5


class Way(NamedTuple):
    """A way out: what to break, the error, the stage it fails in and the time spent there."""

    kind: type[LaunchError]
    stage: str
    took_s: float
    part: Callable[[House, FakeInstance], Awaitable[None]] = connects
    startup_s: float = 300.0


WAYS = {
    "not installed": Way(LaunchError, "package", 0.0),
    "build": Way(BuildError, "build", 7.0),
    "no descriptors": Way(StartError, "create", 0.0),
    "create": Way(StartError, "create", 1.0),
    "start": Way(StartError, "start", 2.0),
    "exits unconnected": Way(InstanceExited, "connect", 1.5, exits_unconnected),
    "exits connected": Way(InstanceExited, "register", 1.5, exits_connected),
    "hangs up": Way(StreamLost, "register", 2.0, hangs_up),  # with the wait for its exit
    "late in build": Way(StartupTimeout, "build", 6.0, startup_s=6.0),
    "late in create": Way(StartupTimeout, "create", 0.5, startup_s=7.5),
    "late in upload": Way(StartupTimeout, "upload", 0.125, startup_s=8.125),
    "late in start": Way(StartupTimeout, "start", 1.75, startup_s=10.0),
    "never connects": Way(StartupTimeout, "connect", 289.75, never_connects),
    "never registers": Way(StartupTimeout, "register", 286.75, never_registers),
}


@pytest.mark.parametrize("name", WAYS)
async def test_a_failure_tells_every_stage_up_to_its_own(
    name: str, call: Caller, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    way = WAYS[name]
    runtime = Measured()
    runtime.fails_in = name
    limits = LaunchLimits(startup_s=way.startup_s, stop_s=10.0)
    async with open_house(runtime, limits=limits) as house:
        plays(house, way.part)
        if name == "not installed":
            house.packages.missing.add(CCID)
        if name == "no descriptors":
            house.listeners.failure = OSError(24, "Too many open files")
        error = await call(house.support.launch, CCID).error()
        assert type(error) is way.kind
        holds_up_to(error, way.stage, way.took_s)
        assert [stage for stage, _ in house.stages] == [
            *(stage for stage, _ in error.stages),
            "failed",
        ]
        total_s = sum(took_s for _, took_s in error.stages)
        assert house.stages[-1][1] == pytest.approx(total_s)
        assert f"(stage {way.stage} after {total_s:.2f} s: package 0.0 ms" in str(error)
        assert str(error) in caplog.messages
        is_late = way.kind is StartupTimeout
        assert counted(house, "chaincode_launch_failures", chaincode=CCID) == (not is_late)
        assert counted(house, "chaincode_launch_timeouts", chaincode=CCID) == is_late
        failed = {"chaincode": CCID, "success": "false"}
        assert counted(house, "chaincode_launch_duration_count", **failed) == 1
        assert counted(house, "chaincode_launch_duration_sum", **failed) == pytest.approx(total_s)


def holds_up_to(error: Exception, stage: str, took_s: float) -> None:
    """Assert that the stages before `stage` took their time, and that it took so long."""
    assert isinstance(error, LaunchError)
    place = [name for name, _ in STAGES].index(stage)
    assert list(error.stages[:place]) == [StageTime(*each) for each in STAGES[:place]]
    [last] = error.stages[place:]
    assert last == (stage, pytest.approx(took_s))
    assert error.evidence is not None
    assert error.evidence.stage == stage


async def interrupted(house: House, call: Caller, end: Callable[[], Awaitable[None]]) -> Call:
    plays(house, never_connects)
    launch = call(house.support.launch, CCID)
    await trio.sleep(11.0)
    await end()
    return launch


async def test_a_stop_tells_where_it_cut_the_launch(
    call: Caller, autojump_clock: MockClock
) -> None:
    async with open_house(Measured()) as house:
        launch = await interrupted(house, call, lambda: house.support.stop(CCID))
        holds_up_to(await launch.error(), "connect", 0.75)


async def test_the_end_of_the_peer_tells_where_it_cut_the_launch(
    call: Caller, autojump_clock: MockClock
) -> None:
    async with open_house(Measured()) as house:

        async def close() -> None:
            house.instances.cancel_scope.cancel()

        launch = await interrupted(house, call, close)
    error = await launch.error()
    assert isinstance(error, PeerClosing)
    holds_up_to(error, "connect", 0.75)


async def test_the_time_it_takes_to_stop_what_failed_is_not_the_launchs(
    call: Caller, autojump_clock: MockClock
) -> None:
    runtime = HangsInStop()
    async with open_house(runtime) as house:
        plays(house, exits_connected)
        launch = call(house.support.launch, CCID)
        error = await launch.error()
        assert isinstance(error, InstanceExited)
        assert error.stages[-1] == ("register", pytest.approx(1.5))
        assert launch.took_s == pytest.approx(4.5 + 10.0)


async def test_a_service_that_is_dialled_again_goes_on_in_the_same_stages(
    call: Caller, autojump_clock: MockClock
) -> None:
    async with open_house(FakeRuntime()) as house:
        house.packages.services[CCID] = ChaincodeServerInfo(ccid=CCID, address="localhost:1")

        def hang_up(service: FakeChaincode) -> None:
            service.close()

        house.connector.on_connect = hang_up
        error = await call(house.support.launch, CCID).error()
        assert isinstance(error, StreamLost | ConnectError)
        assert [stage for stage, _ in error.stages] == ["package", "connect", "register"]
        assert sum(took_s for _, took_s in error.stages) == pytest.approx(300.0)


async def test_a_system_chaincode_has_no_stages(autojump_clock: MockClock) -> None:
    async with open_house(FakeRuntime()) as house:

        async def serve(stream: object, executions: object) -> None:
            chaincode = FakeChaincode(stream)  # type: ignore[arg-type]  # a MemoryStream
            async with trio.open_nursery() as nursery:
                nursery.start_soon(chaincode.run)
                await chaincode.register("cscc.syscc")

        await house.instances.start(house.support.run_in_process, "cscc", serve)
        assert house.stages == []
        assert 'chaincode="cscc.syscc"' not in house.metrics.registry.text()


async def test_the_metrics_of_launches_and_executions(
    call: Caller, autojump_clock: MockClock
) -> None:
    async with open_house(Measured()) as house:
        plays(house, connects)
        house.definitions.define("asset", ccid=CCID)
        execution = call(house.support.execute, params(), "asset", ChaincodeInput(args=[b"f"]))
        assert isinstance(await execution.error(), ExecuteTimeout)
        assert counted(house, "chaincode_execute_timeouts", chaincode=CCID) == 1
        ready = {"chaincode": CCID, "success": "true"}
        assert counted(house, "chaincode_launch_duration_sum", **ready) == READY_S
        assert counted(house, "chaincode_launch_duration_bucket", le="10", **ready) == 0
        assert counted(house, "chaincode_launch_duration_bucket", le="30", **ready) == 1
        for stage, took_s in STAGES:
            name = "triopeer_chaincode_launch_stage_seconds"
            assert counted(house, f"{name}_sum", stage=stage) == took_s
            assert counted(house, f"{name}_count", stage=stage) == 1
        text = house.metrics.registry.text()
        assert f'\nchaincode_execute_timeouts{{chaincode="{CCID}"}} 1\n' in text


async def test_the_log_of_a_launch_names_the_chaincode_and_not_who_happened_to_call(
    call: Caller, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "peer.chaincode")
    bound: list[tuple[str, dict[str, str]]] = []

    class Ids(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            bound.append((record.getMessage(), dict(logs.bound())))

    log, handler = logging.getLogger("peer.chaincode"), Ids()
    log.addHandler(handler)
    try:
        async with open_house(Measured()) as house:
            plays(house, connects)
            house.definitions.define("asset", ccid=CCID)
            with logs.bind(channel="ch1", tx="tx1"):
                execution = call(house.support.execute, params(), "asset", ChaincodeInput())
            assert isinstance(await execution.error(), ExecuteTimeout)
    finally:
        log.removeHandler(handler)
    assert [ids for text, ids in bound if text.startswith("launch of")] == [{"ccid": CCID}]
