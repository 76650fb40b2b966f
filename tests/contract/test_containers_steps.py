"""Trouble at every step of a container's start leaves nothing behind.

The ids of the cases are the table: engine, step, what happened, and when. The trouble is made on
the way to the engine, so peer and engine are the real ones.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from runtimes.api import (
    BuildFailed,
    ExitStatus,
    RuntimeBackend,
    RuntimeFailure,
    RuntimeUnavailable,
    StartFailed,
    UploadFailed,
)
from runtimes.naming import container_name
from tests.contract.containers import NETWORK_ID, TEST, ContainerHarness, steps_spec
from tests.contract.harness import LIMIT_S, processes_with, until
from tests.engines.relay import REFUSAL, REQUESTS, Act, Moment, Relay, Trouble, open_relay

ROOT = Path(__file__).parents[2]
STEPS = tuple(REQUESTS)
REFUSALS: dict[str, type[RuntimeFailure]] = {
    **dict.fromkeys(("network", "create", "attach", "start"), StartFailed),
    "remove": RuntimeUnavailable,
    **dict.fromkeys((step for step in STEPS if step.startswith("build")), BuildFailed),
    "upload": UploadFailed,
}


def moments(step: str, what: str) -> tuple[Moment, ...]:
    """Return those that differ: a refusal comes before, a broken connection after, and to be killed
    before a step is to be killed after the last one."""
    match what:
        case _ if step in ("build_run", "register"):
            return ("within",)
        case "cancel":
            return ("before", "within")
        case "fail":
            return ("before", "after")
        case "kill" if step in ("build_upload", "upload", "start"):
            return ("within", "after")
    return ("after",)


CASES = [
    (step, what, moment)
    for step in STEPS
    for what in ("cancel", "fail", "kill")
    for moment in moments(step, what)
]

table = pytest.mark.parametrize(
    ("step", "what", "moment"), CASES, ids=["-".join(case) for case in CASES]
)
engines = pytest.mark.parametrize("harness", ["docker", "podman"], indirect=True)


class Scene:
    """One start on an engine that is reached through a relay."""

    def __init__(self, harness: ContainerHarness, relay: Relay, step: str, what: str) -> None:
        joins_network = step == "network" or what == "kill"
        self.address = "127.0.0.1:7052" if joins_network else f"unix://{harness.socket}"
        self.harness = harness
        self.relay = relay
        self.step = step
        self.base = harness.house.engine.images["base"]
        self.former = self._leave_a_former() if step == "remove" else set()

    def arguments(self, run: str = "true") -> dict[str, str]:
        """Return what makes the spec; the image is new where it is to be built."""
        mark = self.harness.mark if self.step.startswith("build") else ""
        return {
            "base": self.base,
            "address": self.address,
            "peer_id": self.harness.house.peer_id,
            "mark": self.harness.mark,
            "built": mark,
            "run": run,
        }

    def run(self) -> str:
        """Return what the build does: it must last where trouble comes within its run."""
        return "sleep 1000" if self.step == "build_run" else "true"

    async def launch(self, backend: RuntimeBackend, run: str = "") -> ExitStatus:
        """Start and hold a chaincode as the peer does while it waits for its registration."""
        instance = await backend.start(steps_spec(**self.arguments(run or self.run())))
        try:
            return await instance.wait()
        finally:
            await instance.stop()

    def at(self, moment: Moment, act: Act) -> None:
        self.relay.trouble = Trouble(step=self.step, moment=moment, act=act)

    async def cancelled(self, moment: Moment) -> None:
        async def act() -> None:
            scope.cancel()

        async with self.harness.open() as backend:
            self.at(moment, act)
            with trio.CancelScope() as scope:
                await self.launch(backend)
            assert scope.cancelled_caught
            await self.goes_on(backend)

    async def failed(self, moment: Moment) -> None:
        async with self.harness.open() as backend:
            match self.step, moment:
                case "register", _:
                    await self._dies(backend)
                case "build_run", _:
                    with pytest.raises(BuildFailed, match=r"(?s)exit code 7.*undefined symbol"):
                        await self.launch(backend, "echo undefined symbol; exit 7")
                case _, "before":
                    self.at(moment, _refuse)
                    with pytest.raises(REFUSALS[self.step], match=r"disk full \(status 500\)"):
                        await self.launch(backend)
                case _:
                    self.at(moment, _cut)
                    with pytest.raises(RuntimeUnavailable, match="no answer from the engine at"):
                        await self.launch(backend)
            await self.goes_on(backend)

    async def killed(self, moment: Moment) -> None:
        async def act() -> bytes:
            peer.kill()
            return b""

        self.at(moment, act)
        arguments = {
            **self.arguments(self.run()),
            "engine": self.harness.house.engine.name,
            "endpoint": self.relay.endpoint,
            "state": str(self.harness.state_dir),
        }
        program = str(Path(__file__).with_name("killed_container_peer.py"))
        peer = await trio.lowlevel.open_process(
            [sys.executable, program, json.dumps(arguments)],
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"},
            stdout=subprocess.DEVNULL,
        )
        try:
            with trio.fail_after(LIMIT_S):
                assert await peer.wait() == -signal.SIGKILL
        finally:
            peer.kill()
        async with self.harness.open() as backend:
            await self.goes_on(backend)

    async def goes_on(self, backend: RuntimeBackend) -> None:
        """Nothing of the start is left, and the next one works."""
        self.relay.trouble = None
        await self.nothing_is_left(self.former)
        instance = await backend.start(steps_spec(**self.arguments()))
        assert len(self.harness.left()) == 1
        await instance.stop()

    async def nothing_is_left(self, former: set[str] = frozenset()) -> None:
        """No container, process, or image without a name; processes take a moment to die."""
        assert set(self.harness.left()) <= former
        assert self.harness.house.nameless(f"{TEST}={self.harness.mark}") == []
        await until(lambda: not self.processes())

    def processes(self) -> set[int]:
        """Return what runs on behalf of our containers and builds."""
        return processes_with(self.harness.house.peer_id)

    async def _dies(self, backend: RuntimeBackend) -> None:
        async def act() -> None:
            self.relay.trouble = None
            (container,) = self.harness.left()
            self.harness.house.call("POST", f"/containers/{container}/kill")

        self.at("within", act)
        assert await self.launch(backend) == ExitStatus(signal=signal.SIGKILL)

    def _leave_a_former(self) -> set[str]:
        """Put a container where the new one is to be, such as another program leaves."""
        house = self.harness.house
        ccid = steps_spec(**self.arguments()).ccid
        name = container_name(ccid, network_id=NETWORK_ID, peer_id=house.peer_id)
        config = {"Image": self.base, "Cmd": ["true"], "Labels": {TEST: self.harness.mark}}
        status, made = house.engine.request("POST", f"/containers/create?name={name}", config)
        assert status == 201, made
        return {made["Id"]}


async def _refuse() -> bytes:
    return REFUSAL


async def _cut() -> bytes:
    return b""


@asynccontextmanager
async def at_step(
    harness: ContainerHarness, directory: Path, step: str, what: str
) -> AsyncIterator[Scene]:
    door = directory / "engine.sock"
    async with open_relay(door, harness.house.engine.endpoint) as relay:
        harness.options["endpoint"] = relay.endpoint
        yield Scene(harness, relay, step, what)


@engines
@table
async def test_start(
    harness: ContainerHarness, tmp_path: Path, step: str, what: str, moment: Moment
) -> None:
    async with at_step(harness, tmp_path, step, what) as scene:
        match what:
            case "cancel":
                await scene.cancelled(moment)
            case "fail":
                await scene.failed(moment)
            case "kill":
                await scene.killed(moment)
        await scene.nothing_is_left()
        assert harness.house.networks() == []
