"""Launching: one launch for many callers, every way it can fail, and what is left: nothing."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fabric_protos.stream import ChaincodeId
from peer.chaincode.launcher import LaunchLimits
from peer.errors import (
    BuildError,
    InstanceExited,
    LaunchError,
    RegistrationRefused,
    StartError,
    StartupTimeout,
    StreamLost,
)
from runtimes.api import (
    Capabilities,
    ChaincodePackage,
    ExitStatus,
    RuntimeUnavailable,
    StartFailed,
    TcpOrigin,
    UnixOrigin,
)
from tests.fakes.runtime import (
    ExitsBeforeReady,
    FailsToStart,
    FakeRuntime,
    HangsInStart,
    HangsInStop,
    NeverReadyRuntime,
)
from tests.fakes.stream import FakeChaincode, Type

from .house import Caller, House, open_house, registering

CCID = "asset:9f2"
STAGES = ["package", "build", "create", "start", "connect", "register"]


async def test_a_launch_registers_and_returns_its_handler(autojump_clock: MockClock) -> None:
    runtime = FakeRuntime()
    async with open_house(runtime) as house:
        house.play(CCID, registering(CCID))
        handler = await house.support.launch(CCID)
        assert handler.is_ready
        assert handler.ccid == CCID
        assert await house.support.launch(CCID) is handler
        assert runtime.built == [CCID]
        assert len(runtime.started) == 1
        assert [stage for stage, _ in house.stages] == [*STAGES, "ready"]
        [endpoint] = house.listeners.open_now
        assert not endpoint.accepting  # nobody else may come in
        [instance] = runtime.started
        assert instance.spec.peer_address == endpoint.address
        assert instance.spec.env["CORE_CHAINCODE_ID_NAME"] == CCID
        assert instance.spec.env["CORE_PEER_TLS_ENABLED"] == "false"
        assert instance.spec.files == {}
    assert runtime.running == set()


@pytest.mark.parametrize(("types", "unix"), [({"python"}, True), ({"golang"}, False)])
async def test_a_unix_socket_where_the_library_can_use_it(
    types: set[str], unix: bool, autojump_clock: MockClock
) -> None:
    runtime = FakeRuntime(capabilities=Capabilities(unix_socket=frozenset(types)))
    async with open_house(runtime) as house:
        house.play(CCID, registering(CCID))
        await house.support.launch(CCID)
        assert house.listeners.unix == [unix]


@pytest.mark.parametrize(("is_remote", "host"), [(True, "peer.example.com"), (False, "127.0.0.1")])
async def test_an_engine_elsewhere_reaches_the_peer_by_its_name(
    is_remote: bool, host: str, autojump_clock: MockClock
) -> None:
    runtime = FakeRuntime(capabilities=Capabilities(is_remote=is_remote))
    async with open_house(runtime, remote_name="peer.example.com") as house:
        house.play(CCID, registering(CCID))
        await house.support.launch(CCID)
        assert runtime.started[0].spec.peer_address == f"{host}:1"


async def test_no_way_to_the_peer_fails_the_launch(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async def nowhere() -> str:
        raise StartFailed("no network leads here")

    runtime = FakeRuntime()
    monkeypatch.setattr(runtime, "listen_host", nowhere)
    async with open_house(runtime) as house:
        with pytest.raises(StartError, match="no network leads here"):
            await house.support.launch(CCID)
        assert house.listeners.opened == []
        assert runtime.started == []


async def test_a_stop_that_the_engine_refuses_is_logged(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(self: object) -> None:
        raise RuntimeUnavailable("no answer from the engine")

    runtime = FakeRuntime()
    async with open_house(runtime) as house:
        house.play(CCID, registering(CCID))
        await house.support.launch(CCID)
        with monkeypatch.context() as patch:
            patch.setattr(FakeRuntime.instance_class, "stop", refuse)
            await house.support.stop(CCID)
        assert f"stop of {CCID} failed: no answer from the engine" in caplog.text


async def test_later_callers_share_one_launch(call: Caller, autojump_clock: MockClock) -> None:
    runtime = FakeRuntime()
    async with open_house(runtime) as house:
        calls = [call(house.support.launch, CCID) for _ in range(5)]
        await wait_all_tasks_blocked()
        assert len(runtime.started) == 1
        await house.connect(runtime.started[0]).register(CCID)
        assert len({await each.value() for each in calls}) == 1


async def test_a_failed_launch_is_everybodys_error_and_everybodys_own(
    call: Caller, autojump_clock: MockClock
) -> None:
    runtime = NeverReadyRuntime()
    async with open_house(runtime) as house:
        calls = [call(house.support.launch, CCID) for _ in range(3)]
        await wait_all_tasks_blocked()
        runtime.started[0].exit(ExitStatus(code=3), "last words")
        errors = [await each.error() for each in calls]
        assert len({id(error) for error in errors}) == 3
        assert len({str(error) for error in errors}) == 1
        assert all(isinstance(error, InstanceExited) for error in errors)
        assert all(isinstance(error, LaunchError) and error.evidence for error in errors)


async def test_a_caller_who_gives_up_leaves_the_launch_going(
    call: Caller, autojump_clock: MockClock
) -> None:
    runtime = FakeRuntime()
    async with open_house(runtime) as house:
        first, second = call(house.support.launch, CCID), call(house.support.launch, CCID)
        await wait_all_tasks_blocked()
        first.scope.cancel()
        await first.done.wait()
        assert len(runtime.running) == 1
        await house.connect(runtime.started[0]).register(CCID)
        assert (await second.value()).is_ready


async def test_a_launch_nobody_waits_for_still_comes_up(
    call: Caller, autojump_clock: MockClock
) -> None:
    runtime = FakeRuntime()
    async with open_house(runtime) as house:
        only = call(house.support.launch, CCID)
        await wait_all_tasks_blocked()
        only.scope.cancel()
        await house.connect(runtime.started[0]).register(CCID)
        assert (await house.support.launch(CCID)).is_ready
        assert len(runtime.started) == 1


async def test_two_chaincodes_are_two_launches(autojump_clock: MockClock) -> None:
    runtime = FakeRuntime()
    async with open_house(runtime) as house:
        house.play("a:1", registering("a:1"))
        house.play("b:1", registering("b:1"))
        assert await house.support.launch("a:1") is not await house.support.launch("b:1")
        assert len({instance.spec.peer_address for instance in runtime.started}) == 2


async def failing(house: House, call: Caller) -> tuple[LaunchError, float]:
    """Launch, and return the error and the seconds it took."""
    attempt = call(house.support.launch, CCID)
    error = await attempt.error()
    assert isinstance(error, LaunchError)
    assert error.ccid == CCID
    assert str(error).startswith(f"could not launch chaincode {CCID}: ")
    return error, attempt.took_s


async def test_the_startup_limit_is_exact(call: Caller, autojump_clock: MockClock) -> None:
    runtime = NeverReadyRuntime()
    async with open_house(runtime) as house:
        error, took_s = await failing(house, call)
        assert took_s == pytest.approx(300.0)
        assert isinstance(error, StartupTimeout)
        assert "not READY within 300 s (chaincode.startuptimeout)" in error.reason
        assert error.evidence is not None
        assert error.evidence.stage == "connect"
        assert error.evidence.elapsed_s == pytest.approx(300.0)
        assert error.evidence.address == runtime.started[0].spec.peer_address
        assert runtime.running == set()
        assert runtime.started[0].stops == 1
        assert house.registry.launch(CCID) is None


async def test_ready_stops_the_clock(autojump_clock: MockClock) -> None:
    runtime = FakeRuntime()
    async with open_house(runtime) as house:
        house.play(CCID, registering(CCID))
        handler = await house.support.launch(CCID)
        await trio.sleep(80_000)
        assert await house.support.launch(CCID) is handler
        assert len(runtime.running) == 1


async def test_ready_in_the_last_moment_counts(call: Caller, autojump_clock: MockClock) -> None:
    runtime = FakeRuntime()
    async with open_house(runtime) as house:
        launch = call(house.support.launch, CCID)
        await trio.sleep(299.9)
        await house.connect(runtime.started[0]).register(CCID)
        assert (await launch.value()).is_ready
        await trio.sleep(1)
        assert len(runtime.running) == 1


async def test_a_start_that_hangs_is_cut_off(call: Caller, autojump_clock: MockClock) -> None:
    runtime = HangsInStart()
    async with open_house(runtime) as house:
        error, took_s = await failing(house, call)
        assert isinstance(error, StartupTimeout)
        assert took_s == pytest.approx(300.0)
        assert error.evidence is not None
        assert error.evidence.stage == "start"
        assert runtime.starting == 0


async def test_an_exit_is_noticed_at_once_with_its_evidence(
    call: Caller, autojump_clock: MockClock
) -> None:
    async with open_house(ExitsBeforeReady()) as house:
        error, took_s = await failing(house, call)
        assert took_s == 0
        assert isinstance(error, InstanceExited)
        assert error.reason == "it ended before it was READY: exit code 1"
        assert error.evidence is not None
        assert error.evidence.exit == "exit code 1"
        assert error.evidence.output[-1] == "SyntaxError: invalid"
        assert str(error).endswith("SyntaxError: invalid)")


async def test_an_exit_just_before_the_limit_is_no_timeout(
    call: Caller, autojump_clock: MockClock
) -> None:
    """Stopping what an exit left behind may take longer than the clock still has."""
    runtime = HangsInStop()
    async with open_house(runtime, limits=LaunchLimits(startup_s=5.0, stop_s=10.0)) as house:
        launch = call(house.support.launch, CCID)
        await trio.sleep(4.0)
        house.connect(runtime.started[0])
        runtime.started[0].exit(ExitStatus(signal=11))
        error = await launch.error()
        assert isinstance(error, InstanceExited), error
        assert "killed by signal 11" in str(error)


async def test_a_package_that_is_not_there(call: Caller, autojump_clock: MockClock) -> None:
    async with open_house(FakeRuntime()) as house:
        house.packages.missing.add(CCID)
        error, _ = await failing(house, call)
        assert type(error) is LaunchError
        assert f"nothing is installed under {CCID}" in str(error)


async def test_a_build_that_fails(call: Caller, autojump_clock: MockClock) -> None:
    runtime = FakeRuntime()
    runtime.build_failure = "no such module"
    async with open_house(runtime) as house:
        error, took_s = await failing(house, call)
        assert took_s == 0
        assert isinstance(error, BuildError)
        assert error.reason == "error building chaincode: no such module"
        assert house.listeners.opened == []
        runtime.build_failure = ""
        house.play(CCID, registering(CCID))
        assert (await house.support.launch(CCID)).is_ready


async def test_a_start_that_fails(call: Caller, autojump_clock: MockClock) -> None:
    async with open_house(FailsToStart()) as house:
        error, _ = await failing(house, call)
        assert isinstance(error, StartError)
        assert error.reason.startswith("error starting container: cannot execute ")
        assert error.evidence is not None
        assert error.evidence.stage == "start"
        assert error.evidence.address == "127.0.0.1:1"


async def test_a_runtime_that_is_off(call: Caller, autojump_clock: MockClock) -> None:
    runtime = FakeRuntime()
    runtime.available = False
    async with open_house(runtime) as house:
        error, _ = await failing(house, call)
        assert isinstance(error, StartError)
        assert "switched off" in str(error)


class Broken(FakeRuntime):
    """Its `build` has a bug."""

    async def build(self, package: ChaincodePackage) -> None:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError("a bug")


async def test_a_bug_in_a_backend_does_not_take_the_peer_down(
    call: Caller, autojump_clock: MockClock
) -> None:
    async with open_house(Broken()) as house:
        error, _ = await failing(house, call)
        assert type(error) is LaunchError
        assert "internal error: ZeroDivisionError('a bug')" in str(error)
        assert house.registry.launch(CCID) is None


async def test_a_listener_that_cannot_be_opened(call: Caller, autojump_clock: MockClock) -> None:
    runtime = FakeRuntime()
    async with open_house(runtime) as house:
        house.listeners.failure = OSError(24, "Too many open files")
        error, _ = await failing(house, call)
        assert isinstance(error, StartError)
        assert "Too many open files" in str(error)
        assert runtime.started == []


async def test_a_stream_lost_before_ready_waits_a_moment_for_the_exit(
    call: Caller, autojump_clock: MockClock
) -> None:
    runtime = NeverReadyRuntime()
    async with open_house(runtime) as house:
        launch = call(house.support.launch, CCID)
        await wait_all_tasks_blocked()
        house.connect(runtime.started[0]).close()
        await trio.sleep(0.4)
        runtime.started[0].exit(ExitStatus(code=1), "panic")
        error = await launch.error()
        assert isinstance(error, InstanceExited)
        assert launch.took_s == pytest.approx(0.4)


async def test_a_stream_lost_before_ready_without_an_exit(
    call: Caller, autojump_clock: MockClock
) -> None:
    runtime = NeverReadyRuntime()
    async with open_house(runtime) as house:
        launch = call(house.support.launch, CCID)
        await wait_all_tasks_blocked()
        house.connect(runtime.started[0]).close()
        error = await launch.error()
        assert isinstance(error, StreamLost)
        assert error.reason == "its stream ended before READY: the chaincode closed it"
        assert launch.took_s == pytest.approx(0.5)
        assert runtime.running == set()


async def test_a_second_stream_may_still_make_it(call: Caller, autojump_clock: MockClock) -> None:
    runtime = NeverReadyRuntime()
    async with open_house(runtime) as house:
        launch = call(house.support.launch, CCID)
        await wait_all_tasks_blocked()
        house.connect(runtime.started[0]).close()
        await trio.sleep(0.3)
        await house.connect(runtime.started[0]).register(CCID)
        assert (await launch.value()).is_ready
        await trio.sleep(1000)
        assert len(runtime.running) == 1


async def test_a_wrong_name_fails_the_launch_at_once(
    call: Caller, autojump_clock: MockClock
) -> None:
    runtime = NeverReadyRuntime()
    async with open_house(runtime) as house:
        launch = call(house.support.launch, CCID)
        await wait_all_tasks_blocked()
        chaincode = house.connect(runtime.started[0])
        chaincode.send(Type.REGISTER, ChaincodeId(name="other:1").encode())
        error = await launch.error()
        assert isinstance(error, RegistrationRefused)
        assert error.reason == f"it registered as other:1, but was launched as {CCID}"
        assert launch.took_s == 0
        await wait_all_tasks_blocked()
        assert runtime.running == set()


@pytest.mark.parametrize(
    "origin",
    [None, UnixOrigin(pid=1, uid=0), TcpOrigin(("127.0.0.1", 5), ("127.0.0.1", 6))],
    ids=str,
)
async def test_a_stranger_is_refused_and_the_launch_goes_on(
    call: Caller, origin: UnixOrigin | TcpOrigin | None, autojump_clock: MockClock
) -> None:
    runtime = NeverReadyRuntime()
    async with open_house(runtime) as house:
        launch = call(house.support.launch, CCID)
        await wait_all_tasks_blocked()
        [endpoint] = house.listeners.open_now
        stranger = endpoint.connect(origin)
        stranger.send(Type.REGISTER, ChaincodeId(name=CCID).encode())
        await stranger.ended.wait()
        [refused] = endpoint.refusals
        assert refused.code == "PERMISSION_DENIED"
        assert f"does not belong to the chaincode launched as {CCID}" in str(refused)
        assert stranger.nothing_waits()
        await trio.sleep(100)
        await house.connect(runtime.started[0]).register(CCID)
        assert (await launch.value()).is_ready


async def test_who_connects_before_the_start_has_returned_waits(
    call: Caller, autojump_clock: MockClock
) -> None:
    """A process may connect before the backend has told its id."""
    early: list[FakeChaincode] = []

    class Quick(FakeRuntime):
        async def before_start(self, spec: object) -> None:
            await trio.sleep(1)
            [endpoint] = house.listeners.open_now
            early.append(endpoint.connect(UnixOrigin(pid=1_000_000_000, uid=0)))
            early[0].send(Type.REGISTER, ChaincodeId(name=CCID).encode())
            await trio.sleep(1)
            assert early[0].nothing_waits()

    async with open_house(Quick()) as house:
        assert (await house.support.launch(CCID)).is_ready
