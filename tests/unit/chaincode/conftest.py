"""A handler between a scripted chaincode and a real ledger, and short words to drive it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from fabric_protos.stream import (
    ChaincodeAdditionalParams,
    ChaincodeInput,
    ChaincodeMessage,
    ChaincodeSpec,
)
from peer.chaincode.handler import Handler
from peer.chaincode.registry import HandlerRegistry
from peer.chaincode.requests import LongRequests
from peer.chaincode.stream import PeerEnd, StreamRefused, memory_pipe
from peer.chaincode.transactions import Permissions, TransactionContext, TransactionParams
from peer.errors import (
    LedgerError,
    RegistrationRefused,
)
from peer.ledger import open_ledger
from peer.ledger.api import Ledger, Timestamp, TxSimulator
from peer.metrics import ChaincodeMeters, Registry
from tests.fakes.stream import FakeChaincode, Type
from tests.unordered import CommittingTransaction, commit_unordered

from .house import Caller

CCID = "mycc:1.0"
NS = "mycc"


class Gatekeeper:
    """Lets in whom the test wants, and remembers who left."""

    def __init__(self) -> None:
        self.refuses_everybody = False
        self.refused_names: set[str] = set()
        self.reasons: list[str] = []

    async def recognise(self, far_end: PeerEnd) -> None:
        await trio.lowlevel.checkpoint()
        if self.refuses_everybody:
            raise RegistrationRefused(CCID, "a stranger")

    def admit(self, ccid: str) -> None:
        if ccid in self.refused_names:
            raise RegistrationRefused(ccid, "not under this name")

    def ended(self, reason: str) -> None:
        self.reasons.append(reason)


class Collections:
    """Says what the creator of a proposal may do with ``secrets``; counts the questions."""

    def __init__(self) -> None:
        self.permitted = Permissions(read=True, write=True)
        self.asked = 0

    def permissions(self, params: TransactionParams, collection: str) -> Permissions:
        self.asked += 1
        if collection != "secrets":
            raise LedgerError(
                f"collection {params.channel_id}/{params.namespace}/{collection} could not be found"
            )
        return self.permitted


class Bench:
    """One registry, and as many streams to it as the test opens.

    Attributes:
        calls: answers INVOKE_CHAINCODE.
        refusals: how each stream that was refused ended.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.registry = HandlerRegistry()
        self.counted = Registry()
        self.gate = Gatekeeper()
        self.limit = 100_000
        self.keepalive_s = 0.0
        self.is_debugged = lambda: False
        self.ready_params = ChaincodeAdditionalParams()
        self.refusals: list[StreamRefused] = []
        self.traced: list[tuple[str, bool, int]] = []
        self.hold_calls = trio.Event()

    async def call_chaincode(self, context: TransactionContext, spec: ChaincodeSpec) -> bytes:
        """Answer INVOKE_CHAINCODE once the test lets it."""
        await self.hold_calls.wait()
        return b"called"

    def connect(self, *, capacity: int = 10_000) -> tuple[Handler, FakeChaincode]:
        """Open a stream; its handler runs from now on."""
        near, far = memory_pipe(capacity)
        handler = Handler(
            near,
            gate=self.gate,
            registry=self.registry,
            long_requests=LongRequests(
                total_query_limit=self.limit, call_chaincode=self.call_chaincode
            ),
            ready_params=self.ready_params,
            meters=ChaincodeMeters(self.counted),
            keepalive_s=self.keepalive_s,
            is_debugged=self.is_debugged,
            trace=lambda ccid, is_incoming, m: self.traced.append((ccid, is_incoming, m.type)),
        )
        chaincode = FakeChaincode(far)
        self.nursery.start_soon(chaincode.run)
        self.nursery.start_soon(self._process, handler, near)
        return handler, chaincode

    async def _process(self, handler: Handler, near: object) -> None:
        try:
            await handler.process_stream()
        except StreamRefused as exc:
            self.refusals.append(exc)
        finally:
            near.close()  # type: ignore[attr-defined]  # a MemoryStream

    async def ready(self, ccid: str = CCID) -> tuple[Handler, FakeChaincode]:
        """Open a stream and go through the handshake."""
        handler, chaincode = self.connect()
        await chaincode.register(ccid)
        return handler, chaincode


@pytest.fixture
async def bench(nursery: trio.Nursery) -> Bench:
    return Bench(nursery)


@pytest.fixture
def collections() -> Collections:
    return Collections()


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    async with open_ledger(tmp_path, "ch1", collections={NS: {"secrets"}}.get) as ledger:
        yield ledger


def params(
    tx_id: str = "tx1",
    channel_id: str = "ch1",
    simulator: TxSimulator | None = None,
    **more: object,
) -> TransactionParams:
    return TransactionParams(
        channel_id=channel_id, tx_id=tx_id, namespace=NS, simulator=simulator, **more
    )


async def commit(
    ledger: Ledger, simulator: TxSimulator, tx_id: str = "setup", seconds: int = 1
) -> None:
    [code] = await commit_unordered(
        ledger,
        [
            CommittingTransaction(
                tx_id=tx_id,
                timestamp=Timestamp(seconds, 5),
                results=simulator.get_tx_simulation_results(),
            )
        ],
    )
    assert code == 0


async def put(ledger: Ledger, values: dict[str, bytes], tx_id: str = "setup") -> None:
    """Commit values of the chaincode's namespace."""
    simulator = ledger.new_tx_simulator(tx_id)
    for key, value in values.items():
        simulator.set_state(NS, key, value)
    await commit(ledger, simulator, tx_id)


class Execution:
    """One `execute` in a task of its own; its outcome is a message or an exception."""

    def __init__(self) -> None:
        self.outcome: ChaincodeMessage | Exception | None = None
        self.done = trio.Event()
        self.scope = trio.CancelScope()

    async def run(
        self, handler: Handler, params: TransactionParams, limit_s: float, kind: int
    ) -> None:
        try:
            with self.scope:
                self.outcome = await handler.execute(
                    kind, params, ChaincodeInput(args=[b"get", b"k1"]), limit_s
                )
        except Exception as exc:
            self.outcome = exc
        finally:
            self.done.set()

    async def result(self) -> ChaincodeMessage | Exception | None:
        with trio.fail_after(1000):
            await self.done.wait()
        return self.outcome

    async def error(self) -> Exception:
        outcome = await self.result()
        assert isinstance(outcome, Exception), outcome
        return outcome


class Executor:
    """Starts executions in the background."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def __call__(
        self,
        handler: Handler,
        params: TransactionParams,
        *,
        limit_s: float = 30.0,
        kind: int = Type.TRANSACTION,
    ) -> Execution:
        execution = Execution()
        self._nursery.start_soon(execution.run, handler, params, limit_s, kind)
        return execution


@pytest.fixture
async def execute(nursery: trio.Nursery) -> Executor:
    return Executor(nursery)


@pytest.fixture
async def call(nursery: trio.Nursery) -> Caller:
    return Caller(nursery)
