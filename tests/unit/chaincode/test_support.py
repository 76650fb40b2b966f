"""Which invocation goes where and as what, and what becomes of the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock

from fabric_protos.codec import decode
from fabric_protos.kvrwset import KvrwSet
from fabric_protos.rwset import TxReadWriteSet
from fabric_protos.stream import (
    ChaincodeEvent,
    ChaincodeInput,
    ChaincodeMessage,
    Response,
)
from peer.chaincode.support import INITIALIZED_KEY, Route
from peer.errors import (
    ChaincodeFailed,
    InvalidInvocation,
    StreamLost,
    StreamTerminated,
    UnknownChaincode,
)
from peer.ledger.api import Ledger, TxSimulator
from runtimes.api import ExitStatus
from tests.fakes.runtime import FakeRuntime, NeverReadyRuntime
from tests.fakes.stream import FakeChaincode, Type

from .conftest import commit, params
from .house import Caller, answering, complete, open_house, registering

CCID = "mycc:1.0"
INIT = ChaincodeInput(args=[b"init"], is_init=True)
CALL = ChaincodeInput(args=[b"call"])


@pytest.fixture
async def simulator(ledger: Ledger) -> AsyncIterator[TxSimulator]:
    simulator = ledger.new_tx_simulator("tx1")
    yield simulator
    simulator.done()


async def initialise(ledger: Ledger, version: bytes) -> None:
    setup = ledger.new_tx_simulator("setup")
    setup.set_state("mycc", INITIALIZED_KEY, version)
    await commit(ledger, setup)


def reads_and_writes(simulator: TxSimulator) -> tuple[list[str], list[tuple[str, bytes]]]:
    sets = decode(TxReadWriteSet, simulator.get_tx_simulation_results().public).ns_rwset
    if not sets:
        return [], []
    rwset = decode(KvrwSet, sets[0].rwset)
    return [read.key for read in rwset.reads], [(w.key, w.value) for w in rwset.writes]


def test_the_key_of_initialisation_is_fabrics() -> None:
    assert INITIALIZED_KEY.encode() == b"\x00\xf4\x8f\xbf\xbfinitialized"


class TestCheckInvocation:
    async def test_without_init_nothing_is_read(self, simulator: TxSimulator) -> None:
        async with open_house(FakeRuntime()) as house:
            house.definitions.define("mycc", ccid=CCID)
            route = house.support.check_invocation(params(simulator=simulator), "mycc", CALL)
        assert route == Route(CCID, Type.TRANSACTION)
        assert reads_and_writes(simulator) == ([], [])

    async def test_init_of_what_needs_none(self, simulator: TxSimulator) -> None:
        async with open_house(FakeRuntime()) as house:
            house.definitions.define("mycc")
            with pytest.raises(InvalidInvocation) as refused:
                house.support.check_invocation(params(simulator=simulator), "mycc", INIT)
        assert str(refused.value) == (
            "chaincode 'mycc' does not require initialization but called as init"
        )

    async def test_init_when_it_is_due(self, simulator: TxSimulator) -> None:
        async with open_house(FakeRuntime()) as house:
            house.definitions.define("mycc", init_required=True)
            route = house.support.check_invocation(params(simulator=simulator), "mycc", INIT)
        assert route == Route(CCID, Type.INIT)
        assert reads_and_writes(simulator) == ([INITIALIZED_KEY], [(INITIALIZED_KEY, b"1.0")])

    async def test_init_again(self, ledger: Ledger) -> None:
        await initialise(ledger, b"1.0")
        simulator = ledger.new_tx_simulator("tx1")
        async with open_house(FakeRuntime()) as house:
            house.definitions.define("mycc", init_required=True)
            with pytest.raises(InvalidInvocation) as refused:
                house.support.check_invocation(params(simulator=simulator), "mycc", INIT)
        assert str(refused.value) == "chaincode 'mycc' is already initialized but called as init"
        assert reads_and_writes(simulator) == ([INITIALIZED_KEY], [])

    @pytest.mark.parametrize("initialised_for", [b"", b"0.9"])
    async def test_a_call_before_init(self, ledger: Ledger, initialised_for: bytes) -> None:
        if initialised_for:
            await initialise(ledger, initialised_for)
        simulator = ledger.new_tx_simulator("tx1")
        async with open_house(FakeRuntime()) as house:
            house.definitions.define("mycc", init_required=True)
            with pytest.raises(InvalidInvocation) as refused:
                house.support.check_invocation(params(simulator=simulator), "mycc", CALL)
        assert str(refused.value) == (
            "chaincode 'mycc' has not been initialized for this version, must call as init first"
        )
        simulator.done()

    async def test_a_call_after_init(self, ledger: Ledger) -> None:
        await initialise(ledger, b"1.0")
        simulator = ledger.new_tx_simulator("tx1")
        async with open_house(FakeRuntime()) as house:
            house.definitions.define("mycc", init_required=True)
            route = house.support.check_invocation(params(simulator=simulator), "mycc", CALL)
        assert route == Route(CCID, Type.TRANSACTION)
        assert reads_and_writes(simulator) == ([INITIALIZED_KEY], [])

    async def test_what_is_not_defined(self, simulator: TxSimulator) -> None:
        async with open_house(FakeRuntime()) as house:
            with pytest.raises(UnknownChaincode):
                house.support.check_invocation(params(simulator=simulator), "mycc", CALL)


class TestExecute:
    async def test_a_response_and_its_event(self, autojump_clock: MockClock) -> None:
        async with open_house(FakeRuntime()) as house:
            house.definitions.define("mycc", ccid=CCID)
            house.play(CCID, answering(CCID, complete))
            execution = await house.support.execute(params(), "mycc", CALL)
        assert execution.response == Response(status=200, payload=b"call")
        assert execution.event == ChaincodeEvent(
            chaincode_id="mycc", tx_id="tx1", event_name="e", payload=b"x"
        )

    async def test_the_first_call_launches_and_the_second_does_not(
        self, autojump_clock: MockClock
    ) -> None:
        runtime = FakeRuntime()
        async with open_house(runtime) as house:
            house.definitions.define("mycc", ccid=CCID)
            house.play(CCID, answering(CCID, complete))
            for tx_id in ("tx1", "tx2"):
                await house.support.execute(params(tx_id), "mycc", CALL)
        assert len(runtime.started) == 1

    async def test_decorations_and_init_reach_the_chaincode(
        self, simulator: TxSimulator, autojump_clock: MockClock
    ) -> None:
        seen: list[tuple[int, ChaincodeInput]] = []

        async def note(chaincode: FakeChaincode, work: ChaincodeMessage) -> None:
            seen.append((work.type, ChaincodeInput.decode(work.payload)))
            chaincode.complete(tx=work.txid, channel=work.channel_id)

        async with open_house(FakeRuntime()) as house:
            house.definitions.define("mycc", ccid=CCID, init_required=True)
            house.play(CCID, answering(CCID, note))
            decorated = params(simulator=simulator, decorations={"d": b"1"})
            await house.support.execute(decorated, "mycc", INIT)
        assert seen == [
            (
                Type.INIT,
                ChaincodeInput(args=[b"init"], decorations={"d": b"1"}, is_init=True),
            )
        ]

    @pytest.mark.parametrize("status", [200, 399, 400, 499, 500])
    async def test_every_status_is_a_result(self, status: int, autojump_clock: MockClock) -> None:
        async def answer(chaincode: FakeChaincode, work: ChaincodeMessage) -> None:
            chaincode.complete(tx=work.txid, channel=work.channel_id, status=status, message="m")

        async with open_house(FakeRuntime()) as house:
            house.definitions.define("mycc", ccid=CCID)
            house.play(CCID, answering(CCID, answer))
            execution = await house.support.execute(params(), "mycc", CALL)
        assert execution.response == Response(status=status, message="m")
        assert execution.event is None

    @pytest.mark.parametrize(
        ("kind", "payload", "text"),
        [
            (Type.ERROR, b"it broke", "transaction returned with failure: it broke"),
            (Type.ERROR, b"\xff\xfe", "transaction returned with failure: \ufffd\ufffd"),
            (Type.COMPLETED, b"\xff", "failed to unmarshal response for transaction tx1: "),
        ],
    )
    async def test_no_response_is_a_failure(
        self, kind: int, payload: bytes, text: str, autojump_clock: MockClock
    ) -> None:
        async def answer(chaincode: FakeChaincode, work: ChaincodeMessage) -> None:
            chaincode.send(kind, payload, tx=work.txid, channel=work.channel_id)

        async with open_house(FakeRuntime()) as house:
            house.definitions.define("mycc", ccid=CCID)
            house.play(CCID, answering(CCID, answer))
            with pytest.raises(ChaincodeFailed) as failed:
                await house.support.execute(params(), "mycc", CALL)
        assert failed.value.reason.startswith(text)

    async def test_legacy_init_asks_no_definition(self, autojump_clock: MockClock) -> None:
        async with open_house(FakeRuntime()) as house:
            house.play("old:2.0", answering("old:2.0", complete))
            execution = await house.support.execute_legacy_init(params(), "old", "2.0", CALL)
        assert execution.response.payload == b"call"
        assert execution.event is not None
        assert execution.event.chaincode_id == "old"

    async def test_a_chaincode_that_was_ready_and_is_gone(
        self, call: Caller, autojump_clock: MockClock
    ) -> None:
        async with open_house(NeverReadyRuntime()) as house:
            launch = call(house.support.launch, CCID)
            await trio.sleep(1)
            state = house.registry.launch(CCID)
            assert state is not None
            state.notify(None)  # READY was sent, and the stream ended before anybody ran
            assert isinstance(await launch.error(), StreamLost)


async def test_a_chaincode_that_dies_in_the_middle(call: Caller, autojump_clock: MockClock) -> None:
    runtime = FakeRuntime()
    async with open_house(runtime) as house:
        house.definitions.define("mycc", ccid=CCID)
        house.play(CCID, registering(CCID))
        run = call(house.support.execute, params(), "mycc", CALL)
        await trio.sleep(3)
        house.chaincodes[CCID].close()
        runtime.started[0].exit(ExitStatus(code=2))
        assert isinstance(await run.error(), StreamTerminated)
        assert run.took_s == pytest.approx(3.0)
