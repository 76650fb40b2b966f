"""Chaincode calling chaincode: on the same channel, on another one, in a circle, in vain."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock

from fabric_protos.codec import decode
from fabric_protos.rwset import TxReadWriteSet
from fabric_protos.stream import (
    ChaincodeAdditionalParams,
    ChaincodeId,
    ChaincodeInput,
    ChaincodeMessage,
    ChaincodeSpec,
    PutState,
    Response,
    SignedProposal,
)
from peer import logs
from peer.chaincode.support import EndorsementInfo, ExecutionSettings
from peer.errors import (
    ExecuteTimeout,
)
from peer.ledger import open_ledger
from peer.ledger.api import Ledger, TxSimulator
from runtimes.api import ExitStatus
from tests.fakes.runtime import FakeRuntime
from tests.fakes.stream import FakeChaincode, Type

from .conftest import params
from .house import Caller, House, answering, complete, open_house


class TwoChannels:
    """``ch1`` with caller and callee, ``ch2`` with the callee only."""

    def __init__(self, house: House, one: Ledger, two: Ledger) -> None:
        self.house = house
        self.one = one
        self.two = two
        self.callee_saw: list[ChaincodeMessage] = []
        self.asked: list[bytes] = []
        self.answers: list[ChaincodeMessage] = []
        house.definitions.define("caller")
        house.definitions.define("callee")
        house.definitions.define("callee", channel="ch2")
        house.play("caller:1.0", answering("caller:1.0", self.call))
        house.play("callee:1.0", answering("callee:1.0", self.write))

    async def call(self, chaincode: FakeChaincode, work: ChaincodeMessage) -> None:
        """The caller: invoke what its first argument names, and pass its payload on."""
        [name, *rest] = ChaincodeInput.decode(work.payload).args
        spec = ChaincodeSpec(
            chaincode_id=ChaincodeId(name=name.decode()),
            input=ChaincodeInput(args=rest, is_init=True, decorations={"d": b"forged"}),
        )
        chaincode.send(Type.INVOKE_CHAINCODE, spec.encode(), tx=work.txid, channel=work.channel_id)
        answer = ChaincodeMessage.decode(await chaincode._inbox.receive())
        self.answers.append(answer)
        chaincode.complete(tx=work.txid, channel=work.channel_id)

    async def write(self, chaincode: FakeChaincode, work: ChaincodeMessage) -> None:
        """The callee: write a key and answer with an event."""
        self.callee_saw.append(work)
        write = PutState(key="k", value=b"callee's").encode()
        await chaincode.ask(Type.PUT_STATE, write, tx=work.txid, channel=work.channel_id)
        await complete(chaincode, work)

    async def run(self, *args: bytes, **more: object) -> ChaincodeMessage:
        """Run the caller and return what it was answered."""
        simulator = self.one.new_tx_simulator("tx1")
        proposal = SignedProposal(proposal_bytes=b"p", signature=b"s")
        try:
            transaction = params(
                **{"simulator": simulator, "signed_proposal": proposal} | more  # type: ignore[arg-type]
            )
            await self.house.support.execute(transaction, "caller", ChaincodeInput(args=[*args]))
            self.written = decode(TxReadWriteSet, simulator.get_tx_simulation_results().public)
        finally:
            simulator.done()
        return self.answers[-1]

    async def error(self, *args: bytes, **more: object) -> str:
        answer = await self.run(*args, **more)
        assert answer.type == Type.ERROR, answer
        head, _, cause = answer.payload.decode().partition(": transaction ID: tx1: ")
        assert head == "INVOKE_CHAINCODE failed"
        return cause


@pytest.fixture
async def channels(
    ledger: Ledger, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[TwoChannels]:
    settings = ExecutionSettings(ready_params=ChaincodeAdditionalParams(), execute_s=30.0)
    async with (
        open_ledger(tmp_path_factory.mktemp("two"), "ch2") as two,
        open_house(FakeRuntime(), ledgers={"ch1": ledger, "ch2": two}, settings=settings) as house,
    ):
        yield TwoChannels(house, ledger, two)


class TestChaincodeToChaincode:
    @pytest.mark.parametrize(
        "name", [b"callee", b"callee/ch1", b"callee:7", b"callee:7/ch1", b"callee/"]
    )
    async def test_on_the_same_channel_the_writes_stay(
        self, channels: TwoChannels, name: bytes, autojump_clock: MockClock
    ) -> None:
        answer = await channels.run(name, b"arg")
        assert answer.type == Type.RESPONSE
        final = ChaincodeMessage.decode(answer.payload)
        assert final.type == Type.COMPLETED
        assert Response.decode(final.payload).payload == b"arg"
        assert final.chaincode_event is not None
        assert final.chaincode_event.event_name == "e"
        assert [item.namespace for item in channels.written.ns_rwset] == ["callee"]
        [seen] = channels.callee_saw
        assert (seen.type, seen.txid, seen.channel_id) == (Type.TRANSACTION, "tx1", "ch1")
        assert seen.proposal == SignedProposal(proposal_bytes=b"p", signature=b"s")
        assert ChaincodeInput.decode(seen.payload) == ChaincodeInput(args=[b"arg"])

    @pytest.mark.parametrize("name", [b"callee/ch2", b"callee:7/ch2"])
    async def test_on_another_channel_it_is_a_query(
        self, channels: TwoChannels, name: bytes, autojump_clock: MockClock
    ) -> None:
        answer = await channels.run(name, b"arg")
        assert answer.type == Type.RESPONSE
        assert ChaincodeMessage.decode(answer.payload).type == Type.COMPLETED
        assert channels.written.ns_rwset == []
        [seen] = channels.callee_saw
        assert (seen.txid, seen.channel_id) == ("tx1", "ch2")
        assert channels.two.height == 0

    async def test_calling_oneself_on_the_same_channel_is_refused(
        self, channels: TwoChannels, autojump_clock: MockClock
    ) -> None:
        cause = await channels.error(b"caller", b"callee")
        assert cause.startswith("execute failed: ")
        assert "txid: tx1(ch1) exists" in cause

    async def test_calling_oneself_on_another_channel_works(
        self, channels: TwoChannels, autojump_clock: MockClock
    ) -> None:
        async def call_myself(chaincode: FakeChaincode, work: ChaincodeMessage) -> None:
            spec = ChaincodeSpec(
                chaincode_id=ChaincodeId(name="caller/ch2"), input=ChaincodeInput(args=[b"x"])
            )
            chaincode.send(Type.INVOKE_CHAINCODE, spec.encode(), tx="tx1", channel="ch1")
            inner = await chaincode.wait_for_work()
            assert (inner.txid, inner.channel_id) == ("tx1", "ch2")
            chaincode.complete(tx="tx1", channel="ch2", payload=b"inner")
            channels.answers.append(await chaincode.receive(Type.RESPONSE))
            chaincode.complete(tx="tx1", channel="ch1")

        channels.house.definitions.define("caller", channel="ch2")
        channels.house.play("caller:1.0", answering("caller:1.0", call_myself))
        final = ChaincodeMessage.decode((await channels.run()).payload)
        assert Response.decode(final.payload).payload == b"inner"

    async def test_a_call_in_a_circle_is_refused(
        self, channels: TwoChannels, autojump_clock: MockClock
    ) -> None:
        channels.house.definitions.define("other")
        channels.house.play("other:1.0", answering("other:1.0", channels.call))
        answer = await channels.run(b"other", b"caller")
        assert answer.type == Type.RESPONSE  # the other one completed, after it was refused
        assert b"txid: tx1(ch1) exists" in channels.answers[0].payload

    async def test_the_status_of_the_callee_is_its_own_affair(
        self, channels: TwoChannels, autojump_clock: MockClock
    ) -> None:
        async def fail(chaincode: FakeChaincode, work: ChaincodeMessage) -> None:
            chaincode.complete(tx=work.txid, channel=work.channel_id, status=500, message="no")

        channels.house.play("callee:1.0", answering("callee:1.0", fail))
        final = ChaincodeMessage.decode((await channels.run(b"callee")).payload)
        assert final.type == Type.COMPLETED
        assert Response.decode(final.payload) == Response(status=500, message="no")

    async def test_an_error_of_the_callee_is_passed_on_whole(
        self, channels: TwoChannels, autojump_clock: MockClock
    ) -> None:
        async def fail(chaincode: FakeChaincode, work: ChaincodeMessage) -> None:
            chaincode.send(Type.ERROR, b"broken", tx=work.txid, channel=work.channel_id)

        channels.house.play("callee:1.0", answering("callee:1.0", fail))
        answer = await channels.run(b"callee")
        assert answer.type == Type.RESPONSE
        final = ChaincodeMessage.decode(answer.payload)
        assert (final.type, final.payload) == (Type.ERROR, b"broken")

    async def test_what_the_callee_wrote_before_it_failed_stays(
        self, channels: TwoChannels, autojump_clock: MockClock
    ) -> None:
        async def write_and_fail(chaincode: FakeChaincode, work: ChaincodeMessage) -> None:
            write = PutState(key="k", value=b"v").encode()
            await chaincode.ask(Type.PUT_STATE, write, tx=work.txid, channel=work.channel_id)
            chaincode.send(Type.ERROR, b"broken", tx=work.txid, channel=work.channel_id)

        channels.house.play("callee:1.0", answering("callee:1.0", write_and_fail))
        await channels.run(b"callee")
        assert [item.namespace for item in channels.written.ns_rwset] == ["callee"]

    async def test_a_callee_that_dies(
        self, channels: TwoChannels, autojump_clock: MockClock
    ) -> None:
        async def die(chaincode: FakeChaincode, work: ChaincodeMessage) -> None:
            chaincode.close()
            for instance in list(channels.house.runtime.running):
                if instance.spec.ccid == "callee:1.0":
                    instance.exit(ExitStatus(code=2))

        channels.house.play("callee:1.0", answering("callee:1.0", die))
        cause = await channels.error(b"callee")
        assert cause.startswith("execute failed: ")
        assert "chaincode stream terminated" in cause

    async def test_a_callee_that_cannot_be_launched(
        self, channels: TwoChannels, autojump_clock: MockClock
    ) -> None:
        channels.house.packages.missing.add("callee:1.0")
        cause = await channels.error(b"callee")
        assert cause.startswith("execute failed: could not launch chaincode callee:1.0: ")

    async def test_a_callee_that_is_not_defined(
        self, channels: TwoChannels, autojump_clock: MockClock
    ) -> None:
        assert "execute failed: chaincode none not found" in await channels.error(b"none")

    async def test_a_callee_that_needs_init(
        self, channels: TwoChannels, autojump_clock: MockClock
    ) -> None:
        channels.house.definitions.define("callee", init_required=True)
        assert "must call as init first" in await channels.error(b"callee")

    @pytest.mark.parametrize("name", [b"callee/none", b"callee:7/none"])
    async def test_a_channel_this_peer_has_not_joined(
        self, channels: TwoChannels, name: bytes, autojump_clock: MockClock
    ) -> None:
        cause = await channels.error(name)
        assert cause == "failed to find ledger for channel: none"

    async def test_without_a_proposal_nobody_is_called(
        self, channels: TwoChannels, autojump_clock: MockClock
    ) -> None:
        cause = await channels.error(b"callee", signed_proposal=None)
        assert cause == "signed proposal must not be nil from caller [caller]"
        assert channels.callee_saw == []

    async def test_a_callee_slower_than_the_limit(
        self, channels: TwoChannels, call: Caller, autojump_clock: MockClock
    ) -> None:
        """Both clocks show the same seconds; the caller's began first, so it ends first."""

        async def dream(chaincode: FakeChaincode, work: ChaincodeMessage) -> None:
            await trio.sleep_forever()

        channels.house.play("callee:1.0", answering("callee:1.0", dream))
        run = call(channels.run, b"callee")
        error = await run.error()
        assert isinstance(error, ExecuteTimeout)
        assert run.took_s == pytest.approx(30.0)

    @pytest.mark.parametrize(
        "spec",
        [
            ChaincodeSpec(),
            ChaincodeSpec(chaincode_id=ChaincodeId(name="callee")),
            ChaincodeSpec(input=ChaincodeInput()),
        ],
    )
    async def test_a_request_that_names_nothing(
        self, channels: TwoChannels, spec: ChaincodeSpec, autojump_clock: MockClock
    ) -> None:
        async def ask(chaincode: FakeChaincode, work: ChaincodeMessage) -> None:
            chaincode.send(
                Type.INVOKE_CHAINCODE, spec.encode(), tx=work.txid, channel=work.channel_id
            )
            channels.answers.append(await chaincode.receive())
            chaincode.complete(tx=work.txid, channel=work.channel_id)

        channels.house.play("caller:1.0", answering("caller:1.0", ask))
        assert await channels.error() == "the request names no chaincode or carries no input"

    async def test_a_caller_without_a_channel(
        self, channels: TwoChannels, autojump_clock: MockClock
    ) -> None:
        channels.house.definitions.define("caller", channel="")
        cause = await channels.error(b"callee", channel_id="", simulator=None)
        assert cause == "no ledger context"


async def test_what_is_logged_in_an_execution_has_the_ids_of_all_three(
    channels: TwoChannels, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    definitions, seen = channels.house.definitions, dict[str, dict[str, str]]()
    look_up = definitions.endorsement_info

    def noting(channel_id: str, name: str, simulator: TxSimulator | None) -> EndorsementInfo:
        seen[name] = dict(logs.bound())
        return look_up(channel_id, name, simulator)

    monkeypatch.setattr(definitions, "endorsement_info", noting)
    with logs.bind(channel="ch1", tx="tx1"):
        await channels.run(b"callee", b"x")
    assert seen["callee"] == {"channel": "ch1", "tx": "tx1", "ccid": "caller:1.0"}
