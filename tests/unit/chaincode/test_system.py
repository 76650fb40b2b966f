"""System chaincodes, and chaincodes somebody started by hand."""

from __future__ import annotations

import os
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fabric_protos.codec import decode, encode
from fabric_protos.protos import ChannelInfo, ChannelQueryResponse
from fabric_protos.stream import (
    ChaincodeId,
    ChaincodeInput,
    ChaincodeMessage,
    ChaincodeSpec,
    Response,
)
from peer.chaincode.stream import MemoryStream, MessageStream, PeerEnd, StreamRefused, memory_pipe
from peer.chaincode.support import Route
from peer.errors import ExecuteTimeout, LaunchError, PeerError
from peer.scc.runner import SystemCall, serve
from runtimes.api import UnixOrigin
from tests.fakes.runtime import FakeRuntime
from tests.fakes.stream import FakeChaincode, Type

from .conftest import params
from .house import Caller, House, answering, open_house

CHANNELS = ChaincodeInput(args=[b"GetChannels"])


class Listing:
    """A system chaincode that lists two channels and can do nothing else."""

    name = "cscc"

    async def invoke(self, call: SystemCall) -> Response:
        await trio.lowlevel.checkpoint()
        if list(call.args) != CHANNELS.args:
            raise PeerError("function not found")
        channels = [ChannelInfo(channel_id=channel_id) for channel_id in ("ch1", "ch2")]
        return Response(status=200, payload=encode(ChannelQueryResponse(channels=channels)))


async def start_cscc(house: House) -> None:
    cscc = Listing()
    await house.instances.start(house.support.run_in_process, cscc.name, partial(serve, cscc))


def channel_ids(response: Response) -> list[str]:
    assert response.status == 200, response
    found = decode(ChannelQueryResponse, response.payload)
    return [channel.channel_id for channel in found.channels]


@pytest.mark.parametrize("channel_id", ["", "ch1"])
async def test_a_system_chaincode_needs_no_definition_and_no_process(
    channel_id: str, autojump_clock: MockClock
) -> None:
    runtime = FakeRuntime()
    async with open_house(runtime) as house:
        await start_cscc(house)
        transaction = params(channel_id=channel_id)
        route = house.support.check_invocation(transaction, "cscc", CHANNELS)
        assert route == Route("cscc.syscc", Type.TRANSACTION)
        execution = await house.support.execute(transaction, "cscc", CHANNELS)
        assert channel_ids(execution.response) == ["ch1", "ch2"]
    assert runtime.started == []


async def test_what_it_refuses_is_a_response(autojump_clock: MockClock) -> None:
    async with open_house(FakeRuntime()) as house:
        await start_cscc(house)
        for args in ([], [b"JoinChain"], [b"\xff"]):
            execution = await house.support.execute(params(), "cscc", ChaincodeInput(args=args))
            assert execution.response.status == 500
            assert "not found" in execution.response.message


class Odd:
    """A system chaincode that misbehaves on demand."""

    name = "odd"

    async def invoke(self, call: SystemCall) -> Response:
        await trio.lowlevel.checkpoint()
        if call.args[0] == b"bug":
            raise ZeroDivisionError("secret details")
        if call.args[-1] == b"hang":
            await trio.sleep_forever()
        raise PeerError("on purpose")


async def test_its_bugs_stay_inside(autojump_clock: MockClock) -> None:
    async with open_house(FakeRuntime()) as house:
        await house.instances.start(house.support.run_in_process, "odd", partial(serve, Odd()))
        for args, message in (([b"bug"], "internal error"), ([b"x"], "on purpose")):
            execution = await house.support.execute(params(), "odd", ChaincodeInput(args=args))
            assert execution.response == Response(status=500, message=message)


@pytest.mark.parametrize(
    ("name", "function", "limit_s"),
    [
        ("_lifecycle", b"InstallChaincode", 300.0),
        ("lscc", b"install", 300.0),
        ("lscc", b"getid", 30.0),
        ("cscc", b"install", 30.0),
    ],
)
async def test_installing_may_take_longer(
    name: str, function: bytes, limit_s: float, autojump_clock: MockClock
) -> None:
    odd = Odd()
    odd.name = name
    async with open_house(FakeRuntime()) as house:
        await house.instances.start(house.support.run_in_process, name, partial(serve, odd))
        began = trio.current_time()
        with pytest.raises(ExecuteTimeout):
            await house.support.execute(params(), name, ChaincodeInput(args=[function, b"hang"]))
        assert trio.current_time() - began == pytest.approx(limit_s)


async def test_it_runs_once(autojump_clock: MockClock) -> None:
    async with open_house(FakeRuntime()) as house:
        await start_cscc(house)
        with pytest.raises(LaunchError, match="running already"):
            await house.support.run_in_process("cscc", partial(serve, Odd()))
        assert (await house.support.execute(params(), "cscc", CHANNELS)).response.status == 200


async def test_it_registers_under_its_own_name_only() -> None:
    async def impostor(stream: MessageStream, executions: object) -> None:
        name = ChaincodeId(name="mycc:1.0").encode()
        stream.send(ChaincodeMessage(type=Type.REGISTER, payload=name).encode())
        await stream.run(lambda data: None)

    async with open_house(FakeRuntime()) as house:
        with pytest.raises(ExceptionGroup) as caught:
            await house.support.run_in_process("cscc", impostor)
        [refused] = caught.value.exceptions
        assert isinstance(refused, StreamRefused)
        assert str(refused) == "it registered as mycc:1.0"


async def test_it_can_be_stopped_like_any_other(autojump_clock: MockClock) -> None:
    async with open_house(FakeRuntime()) as house:
        await start_cscc(house)
        with trio.fail_after(5):
            await house.support.stop("cscc.syscc")
        assert house.registry.handler("cscc.syscc") is None
        await start_cscc(house)
        assert (await house.support.execute(params(), "cscc", CHANNELS)).response.status == 200


@pytest.mark.parametrize("simulated", [False, True])
async def test_a_chaincode_may_call_it(simulated: bool, autojump_clock: MockClock) -> None:
    answers: list[ChaincodeMessage] = []

    async def ask(chaincode: FakeChaincode, work: ChaincodeMessage) -> None:
        spec = ChaincodeSpec(chaincode_id=ChaincodeId(name="cscc"), input=CHANNELS)
        chaincode.send(Type.INVOKE_CHAINCODE, spec.encode(), tx=work.txid, channel=work.channel_id)
        answers.append(await chaincode.receive(Type.RESPONSE))
        chaincode.complete(tx=work.txid, channel=work.channel_id)

    channel = "ch1" if simulated else ""
    async with open_house(FakeRuntime()) as house:
        await start_cscc(house)
        house.definitions.define("caller", channel=channel)
        house.play("caller:1.0", answering("caller:1.0", ask))
        await house.support.execute(params(channel_id=channel), "caller", ChaincodeInput())
    final = ChaincodeMessage.decode(answers[0].payload)
    assert final.type == Type.COMPLETED
    assert channel_ids(Response.decode(final.payload)) == ["ch1", "ch2"]


class TestByHand:
    """`chaincode.mode: dev`: nobody launched what registers."""

    def connect(self, house: House, uid: int) -> tuple[MemoryStream, FakeChaincode]:
        near, far = memory_pipe()
        near.far_end = PeerEnd(UnixOrigin(pid=1, uid=uid))
        chaincode = FakeChaincode(far)
        house.instances.start_soon(chaincode.run)
        return near, chaincode

    async def test_it_is_used_without_a_launch(
        self, call: Caller, autojump_clock: MockClock
    ) -> None:
        runtime = FakeRuntime()
        async with open_house(runtime) as house:
            house.definitions.define("mycc")
            near, chaincode = self.connect(house, os.getuid())
            serving = call(house.support.handle_development_stream, near)
            await chaincode.register("mycc:1.0")
            run = call(house.support.execute, params(), "mycc", ChaincodeInput())
            await chaincode.receive(Type.TRANSACTION)
            chaincode.complete(payload=b"by hand")
            assert (await run.value()).response.payload == b"by hand"
            chaincode.close()
            await serving.value()
            assert house.registry.handler("mycc:1.0") is None
        assert runtime.started == []

    async def test_it_fulfils_a_launch_in_progress(
        self, call: Caller, autojump_clock: MockClock
    ) -> None:
        async with open_house(FakeRuntime()) as house:
            launch = call(house.support.launch, "mycc:1.0")
            await wait_all_tasks_blocked()
            near, chaincode = self.connect(house, os.getuid())
            serving = call(house.support.handle_development_stream, near)
            await chaincode.register("mycc:1.0")
            assert (await launch.value()).is_ready
            chaincode.close()
            await serving.value()

    async def test_another_user_is_refused(self, autojump_clock: MockClock) -> None:
        async with open_house(FakeRuntime()) as house:
            near, _ = self.connect(house, os.getuid() + 4711)
            with pytest.raises(StreamRefused) as refused:
                await house.support.handle_development_stream(near)
            assert refused.value.code == "PERMISSION_DENIED"
            near.close()
