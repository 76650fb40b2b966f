"""Chaincodes that run as a service: dialling, the wrong one, the lost one."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fabric_protos.stream import ChaincodeId
from peer.chaincode.connections import ChaincodeServerInfo
from peer.chaincode.launcher import LaunchLimits
from peer.errors import ConnectError, LaunchError, RegistrationRefused, StartupTimeout, StreamLost
from tests.fakes.runtime import FakeRuntime
from tests.fakes.stream import FakeChaincode, Type

from .house import Caller, House, open_house

CCID = "service:7"
ADDRESS = "localhost:9999"


def serve(house: House, name: str = CCID, *, dial_timeout_s: float = 3.0) -> None:
    """Install the service; it registers as soon as it is reached."""
    house.packages.services[CCID] = ChaincodeServerInfo(
        ccid=CCID, address=ADDRESS, dial_timeout_s=dial_timeout_s
    )

    def register(service: FakeChaincode) -> None:
        service.send(Type.REGISTER, ChaincodeId(name=name).encode())

    house.connector.on_connect = register


async def test_a_service_is_dialled_and_not_started(autojump_clock: MockClock) -> None:
    runtime = FakeRuntime()
    async with open_house(runtime) as house:
        serve(house)
        handler = await house.support.launch(CCID)
        assert handler.is_ready
        assert [stage for stage, _ in house.stages] == ["package", "connect", "register", "ready"]
        await trio.sleep(80_000)
        assert await house.support.launch(CCID) is handler
        assert len(house.connector.dialled) == 1
    assert runtime.built == []
    assert house.connector.services[0].ended.is_set()


async def test_a_service_that_comes_up_late_is_found(autojump_clock: MockClock) -> None:
    async with open_house(FakeRuntime()) as house:
        serve(house)
        house.connector.refusing = 7
        began = trio.current_time()
        assert (await house.support.launch(CCID)).is_ready
        pauses = [0.1, 0.2, 0.5, 1.0, 2.0, 2.0, 2.0]
        expected = [sum(pauses[:count]) for count in range(8)]
        assert [at - began for at in house.connector.dialled] == pytest.approx(expected)


async def test_a_service_that_never_answers(call: Caller, autojump_clock: MockClock) -> None:
    async with open_house(FakeRuntime()) as house:
        serve(house)
        house.connector.refusing = 10_000
        launch = call(house.support.launch, CCID)
        error = await launch.error()
        assert isinstance(error, ConnectError)
        assert error.reason == f"connection to {CCID} failed: {ADDRESS}: connection refused"
        assert launch.took_s == pytest.approx(300.0)
        assert error.evidence is not None
        assert error.evidence.stage == "connect"
        assert house.registry.launch(CCID) is None


@pytest.mark.parametrize("dial_timeout_s", [0.05, 1.0, 3.0, 4.9, 10.0])
@pytest.mark.parametrize("dial_s", [0.0, 0.04, 60.0])
async def test_near_the_startup_limit_the_cause_is_still_told(
    call: Caller, autojump_clock: MockClock, dial_timeout_s: float, dial_s: float
) -> None:
    """Whatever the clock cuts off, a pause or an attempt: the last failure is what is told."""
    limits = LaunchLimits(startup_s=5.0, stop_s=1.0)
    async with open_house(FakeRuntime(), limits=limits) as house:
        serve(house, dial_timeout_s=dial_timeout_s)
        house.connector.refusing = 10_000
        house.connector.dial_s = dial_s
        launch = call(house.support.launch, CCID)
        error = await launch.error()
        assert launch.took_s == pytest.approx(5.0)
        if dial_timeout_s > 5.0 and dial_s > 5.0:
            assert isinstance(error, StartupTimeout)  # its very first dial took too long
        else:
            assert isinstance(error, ConnectError), error


async def test_a_wrong_name_fails_at_once(call: Caller, autojump_clock: MockClock) -> None:
    async with open_house(FakeRuntime()) as house:
        serve(house, "other:1")
        launch = call(house.support.launch, CCID)
        error = await launch.error()
        assert isinstance(error, RegistrationRefused)
        assert error.reason == f"it registered as other:1, but was launched as {CCID}"
        assert launch.took_s == 0
        await wait_all_tasks_blocked()
        assert len(house.connector.dialled) == 1
        assert house.connector.services[0].ended.is_set()


async def test_a_stream_lost_before_ready_is_dialled_again(
    call: Caller, autojump_clock: MockClock
) -> None:
    async with open_house(FakeRuntime()) as house:
        serve(house)
        register = house.connector.on_connect

        def close_at_first(service: FakeChaincode) -> None:
            """Be a service that is just starting anew behind a proxy."""
            if len(house.connector.services) < 3:
                service.close()
            else:
                register(service)

        house.connector.on_connect = close_at_first
        launch = call(house.support.launch, CCID)
        assert (await launch.value()).is_ready
        assert launch.took_s == pytest.approx(0.1 + 0.2)


async def test_a_stream_that_is_always_lost_before_ready(
    call: Caller, autojump_clock: MockClock
) -> None:
    async with open_house(FakeRuntime()) as house:
        serve(house)
        house.connector.on_connect = FakeChaincode.close
        launch = call(house.support.launch, CCID)
        error = await launch.error()
        assert launch.took_s == pytest.approx(300.0)
        assert isinstance(error, StreamLost)
        assert "the chaincode closed it" in str(error)


async def test_after_the_stream_has_ended_the_next_call_dials_again(
    autojump_clock: MockClock,
) -> None:
    async with open_house(FakeRuntime()) as house:
        serve(house)
        first = await house.support.launch(CCID)
        house.connector.services[0].close()
        await wait_all_tasks_blocked()
        assert house.registry.handler(CCID) is None
        assert house.registry.launch(CCID) is None
        assert len(house.connector.dialled) == 1  # not by itself
        assert await house.support.launch(CCID) is not first
        assert len(house.connector.dialled) == 2


async def test_stopping_a_service_ends_its_stream(autojump_clock: MockClock) -> None:
    async with open_house(FakeRuntime()) as house:
        serve(house)
        await house.support.launch(CCID)
        await house.support.stop(CCID)
        assert house.connector.services[0].ended.is_set()
        assert (await house.support.launch(CCID)).is_ready


async def test_stopping_while_dialling(call: Caller, autojump_clock: MockClock) -> None:
    async with open_house(FakeRuntime()) as house:
        serve(house)
        house.connector.refusing = 1000
        launch = call(house.support.launch, CCID)
        await trio.sleep(1.5)
        await house.support.stop(CCID)
        error = await launch.error()
        assert type(error) is LaunchError
        assert "it was stopped" in str(error)
