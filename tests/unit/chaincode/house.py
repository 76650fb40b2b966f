"""The whole room with fakes around it: what launches, and what is launched."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio

from fabric_protos.stream import (
    ChaincodeAdditionalParams,
    ChaincodeEvent,
    ChaincodeInput,
    ChaincodeMessage,
)
from peer.chaincode.certificates import CertificateAuthority
from peer.chaincode.connections import ChaincodeServerInfo
from peer.chaincode.environment import ChaincodeEnvironment
from peer.chaincode.launcher import LaunchLimits, RuntimeLauncher
from peer.chaincode.registry import HandlerRegistry
from peer.chaincode.support import ChaincodeSupport, EndorsementInfo, ExecutionSettings
from peer.errors import PackageError, UnknownChaincode, UnknownChannel
from peer.ledger.api import Ledger, TxSimulator
from peer.metrics import Metrics
from runtimes.api import ChaincodePackage, ReportStage, UnixOrigin
from tests.fakes.runtime import FakeInstance, FakeRuntime
from tests.fakes.stream import FakeChaincode, FakeConnector, FakeListeners

SETTINGS = ExecutionSettings(ready_params=ChaincodeAdditionalParams())
LIMITS = LaunchLimits(startup_s=300.0, stop_s=10.0)


class Definitions:
    """Committed definitions by channel and name."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], EndorsementInfo] = {}

    def define(
        self, name: str, *, ccid: str = "", channel: str = "ch1", init_required: bool = False
    ) -> None:
        info = EndorsementInfo("1.0", ccid or f"{name}:1.0", init_required)
        self.known[channel, name] = info

    def endorsement_info(
        self, channel_id: str, name: str, simulator: TxSimulator | None
    ) -> EndorsementInfo:
        try:
            return self.known[channel_id, name]
        except KeyError:
            raise UnknownChaincode(channel_id, name) from None


class PackageShelf:
    """What is installed: everything, as a package, but for the services and the missing."""

    def __init__(self, runtime: FakeRuntime) -> None:
        self._runtime = runtime
        self.services: dict[str, ChaincodeServerInfo] = {}
        self.missing: set[str] = set()

    async def build(
        self, ccid: str, on_stage: ReportStage
    ) -> ChaincodePackage | ChaincodeServerInfo:
        if ccid in self.missing:
            raise PackageError(f"nothing is installed under {ccid}")
        if ccid in self.services:
            return self.services[ccid]
        on_stage("build")
        package = ChaincodePackage(ccid=ccid, type="python", path=Path("/nowhere"))
        await self._runtime.build(package)
        return package


class House:
    """The whole room with fakes around it; `open_house` holds it.

    Attributes:
        scripts: what a chaincode does once it runs, by ccid; by default it registers and answers.
        chaincodes: the chaincode's side of the streams of launched instances, by ccid.
    """

    def __init__(
        self,
        instances: trio.Nursery,
        runtime: FakeRuntime,
        *,
        ledgers: Mapping[str, Ledger] | None = None,
        authority: CertificateAuthority | None = None,
        limits: LaunchLimits = LIMITS,
        settings: ExecutionSettings = SETTINGS,
        remote_name: str = "",
    ) -> None:
        self.instances = instances
        self.runtime = runtime
        self.listeners = FakeListeners()
        self.connector = FakeConnector()
        self.definitions = Definitions()
        self.packages = PackageShelf(runtime)
        self.stages: list[tuple[str, float]] = []
        self.metrics = Metrics()
        self.registry = HandlerRegistry(
            lambda _, stage, elapsed_s: self.stages.append((stage, elapsed_s)),
            self.metrics.chaincode.launch_settled,
        )
        self.launcher = RuntimeLauncher(
            instances=instances,
            registry=self.registry,
            backend=runtime,
            packages=self.packages,
            listeners=self.listeners,
            connector=self.connector,
            environment=ChaincodeEnvironment(msp_id="Org1MSP"),
            limits=limits,
            authority=authority,
            remote_name=remote_name,
        )
        self._ledgers = ledgers or {}
        self.support = ChaincodeSupport(
            registry=self.registry,
            launcher=self.launcher,
            definitions=self.definitions,
            ledgers=self._ledger,
            settings=settings,
            meters=self.metrics.chaincode,
        )
        self.scripts: dict[str, Script] = {}
        self.chaincodes: dict[str, FakeChaincode] = {}

    def _ledger(self, channel_id: str) -> Ledger:
        try:
            return self._ledgers[channel_id]
        except KeyError:
            raise UnknownChannel(channel_id) from None

    def play(self, ccid: str, script: Script) -> None:
        """Let the chaincode `ccid`, once launched, run `script` with its side of the stream."""
        self.scripts[ccid] = script
        self.runtime.on_start = self._start

    def _start(self, instance: FakeInstance) -> None:
        script = self.scripts.get(instance.spec.ccid)
        if script is not None:
            chaincode = self.connect(instance)
            self.instances.start_soon(self._run, script, chaincode)

    async def _run(self, script: Script, chaincode: FakeChaincode) -> None:
        """Play a script until its stream ends."""
        async with trio.open_nursery() as nursery:

            async def stop_with_stream() -> None:
                await chaincode.ended.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(stop_with_stream)
            with suppress(trio.EndOfChannel):
                await script(chaincode)

    def connect(self, instance: FakeInstance) -> FakeChaincode:
        """Connect as a process of `instance` to the listener it was given."""
        [endpoint] = [
            endpoint
            for endpoint in self.listeners.open_now
            if endpoint.address == instance.spec.peer_address
        ]
        chaincode = endpoint.connect(UnixOrigin(pid=instance.pid, uid=0))
        self.chaincodes[instance.spec.ccid] = chaincode
        return chaincode


Script = Callable[[FakeChaincode], Awaitable[None]]


def answering(
    ccid: str, answer: Callable[[FakeChaincode, ChaincodeMessage], Awaitable[None]]
) -> Script:
    """Return a chaincode that registers and runs `answer` for every transaction."""

    async def script(chaincode: FakeChaincode) -> None:
        await chaincode.register(ccid)
        while True:
            await answer(chaincode, await chaincode.wait_for_work())

    return script


def registering(ccid: str) -> Script:
    """Return a chaincode that registers and is silent from then on."""

    async def script(chaincode: FakeChaincode) -> None:
        await chaincode.register(ccid)
        await trio.sleep_forever()

    return script


async def complete(chaincode: FakeChaincode, work: ChaincodeMessage) -> None:
    """Answer with the first argument and an event."""
    called = ChaincodeInput.decode(work.payload)
    chaincode.complete(
        tx=work.txid,
        channel=work.channel_id,
        payload=called.args[0],
        event=ChaincodeEvent(chaincode_id="forged", tx_id="forged", event_name="e", payload=b"x"),
    )


@asynccontextmanager
async def open_house(runtime: FakeRuntime, **more: Any) -> AsyncIterator[House]:
    """Hold the room; leaving it shuts it down and nothing may be left."""
    async with trio.open_nursery() as instances:
        house = House(instances, runtime, **more)
        try:
            yield house
        finally:
            instances.cancel_scope.cancel()
    assert house.listeners.open_now == set()
    assert house.registry._launches == {}
    assert house.registry._handlers == {}


class Call:
    """One call in a task of its own, with its outcome and the time it took."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.done = trio.Event()
        self.result: Any = None
        self.failure: Exception | None = None
        self.took_s = math.nan

    async def run(self, work: Callable[..., Awaitable[Any]], *args: object) -> None:
        began = trio.current_time()
        try:
            with self.scope:
                self.result = await work(*args)
        except Exception as exc:
            self.failure = exc
        finally:
            self.took_s = trio.current_time() - began
            self.done.set()

    async def error(self) -> Exception:
        with trio.fail_after(10_000):
            await self.done.wait()
        assert self.failure is not None, self.result
        return self.failure

    async def value(self) -> Any:
        with trio.fail_after(10_000):
            await self.done.wait()
        assert self.failure is None, repr(self.failure)
        return self.result


class Caller:
    """Starts calls in the background."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def __call__(self, work: Callable[..., Awaitable[Any]], *args: object) -> Call:
        call = Call()
        self._nursery.start_soon(call.run, work, *args)
        return call
