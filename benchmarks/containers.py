"""From the decision to start a Go chaincode in a container to its READY, image cached.

Room:      benchmarks   (drives peer.open_peer, as any program that embeds a peer)
Loop:      Trio
Lifetime:  one process
Fabric:    none

The floor is the same container without a peer: the requests create, attach, upload and start of a
launch, sent again as they were, until the engine has answered and the chaincode has dialled.

Our own share is what is left of a launch without the time in which the engine works on these four,
as seen between it and the peer, and without the chaincode's way from the last answer to its
dialling, as in the floor next to it. So TLS and HTTP/2 with the chaincode are ours, like every
other request, and like what the watcher takes.

Not pinned, as launch is not. Engines are those of DOCKER_HOST and CONTAINER_HOST with the images of
the configuration, or else the tests' own where ``python -m tests.engines up`` has been run.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import trio
from engine_requests import STEPS, Replay, Watcher, spent
from measure import Meter, Row, Samples, main, skipped

from peer import PeerConfig, open_peer
from tests.chaincodes.prepare import Unavailable, golang
from tests.engines.engine import ENGINES

VARIABLES = {"docker": "DOCKER_HOST", "podman": "CONTAINER_HOST"}
BRIDGE = {"CORE_VM_DOCKER_HOSTCONFIG_NETWORKMODE": "bridge"}
TLS = {"CORE_PEER_TLS_ENABLED": "true"}
SCHEMES: Mapping[str, Mapping[str, str]] = {
    "isolated": {},
    "isolated, TLS": TLS,
    "bridge": BRIDGE,
    "bridge, TLS": {**BRIDGE, **TLS},
}
"""Name of a way to launch → its part of the configuration."""
LAUNCH, FLOOR, OWN = "launch to READY", "floor", "own share"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInUse:
    """An engine on this machine.

    Attributes:
        env: its part of the configuration.
    """

    name: str
    socket: Path
    env: Mapping[str, str]


def rows(quick: bool) -> list[Row]:
    """Measure launches on every engine that can be had, their stages and their floors."""
    logging.disable()
    engines = list(engines_in_use())
    if not engines:
        return []
    try:
        code = golang().path
    except Unavailable as exc:
        skipped("containers", exc)
        return []
    return trio.run(measure, engines, code, 3 if quick else 12)


def engines_in_use() -> Iterator[EngineInUse]:
    """Find the engines, and say which cannot be had."""
    for name, kind in ENGINES.items():
        variable, own = VARIABLES[name], kind()
        given = os.environ.get(variable, "")
        if given.startswith("unix://"):
            yield EngineInUse(name=name, socket=Path(given.removeprefix("unix://")), env={})
        elif given:
            skipped(name, f"{variable} is no Unix socket")
        elif own.is_ready():
            images = {
                "CORE_CHAINCODE_BUILDER": own.images["builder"],
                "CORE_CHAINCODE_GOLANG_RUNTIME": own.images["golang"],
            }
            yield EngineInUse(name=name, socket=own.socket, env=images)
        else:
            skipped(name, f"{variable} is not set, and the tests' own engine is not up")


class Place:
    """One way to launch on one engine: a peer of its own, and the floor under its launches."""

    def __init__(self, engine: EngineInUse, scheme: str, watcher: Watcher) -> None:
        self.name = f"{engine.name}, {scheme}"
        self._engine = engine
        self._scheme = scheme
        self._watcher = watcher
        self._entered: dict[str, float] = {}
        self._floor: Replay | None = None

    async def open(self, code: Path, door: Path, stack: AsyncExitStack) -> None:
        """Open the peer, install the chaincode and launch it once.

        Args:
            door: where the peer finds its engine, the watcher in between.
        """
        env = {
            **os.environ,
            **self._engine.env,
            **SCHEMES[self._scheme],
            "CORE_VM_RUNTIME": self._engine.name,
            "CORE_VM_ENDPOINT": f"unix://{door}",
            "CORE_PEER_NETWORKID": "benchmark",
            "CORE_PEER_ID": self._scheme.replace(", ", "."),
        }
        stack.callback(self._remove_image)
        opening = open_peer(PeerConfig.load(env=env), on_stage=self._on_stage)
        self._peer = await stack.enter_async_context(opening)
        self._ccid = (await self._peer.install(code)).ccid
        await self._launch()
        self._floor = Replay(self._engine.socket, self._watcher.seen())

    async def sample(self, samples: Samples) -> None:
        """Take one sample of a launch, and one of the floor."""
        launch = await self._launch()
        requests = self._watcher.seen()
        self._floor = Replay(self._engine.socket, requests)
        floor, engine = self._floor.run(), spent(requests)
        samples.add(f"{LAUNCH}, {self.name}", launch)
        samples.add(f"{FLOOR}, {self.name}", sum(floor.values()))
        samples.add(f"{OWN}, {self.name}", launch - sum(engine.values()) - floor["dial"])
        for stage, following in pairwise(self._entered):
            name = f"of it, {stage} to {following}, {self.name}"
            samples.add(name, self._entered[following] - self._entered[stage])
        for step, seconds in floor.items():
            samples.add(f"{FLOOR}, {step}, {self.name}", seconds)

    def rows(self, samples: Samples) -> Iterator[Row]:
        """Return what was found."""
        launch, floor, own = (f"{what}, {self.name}" for what in (LAUNCH, FLOOR, OWN))
        bridge = launch.replace("isolated", "bridge")
        yield samples.row(launch, "ms", to=bridge if bridge != launch else "", scale=1e3)
        yield samples.percentile(launch, 99, "ms")
        yield samples.row(own, "ms", scale=1e3)
        yield samples.percentile(own, 99, "ms")
        for stage, following in pairwise(self._entered):
            yield samples.row(f"of it, {stage} to {following}, {self.name}", "ms", scale=1e3)
        yield samples.row(floor, "ms", to=launch, scale=1e3)
        for step in (*STEPS, "dial"):
            yield samples.row(f"{FLOOR}, {step}, {self.name}", "ms", scale=1e3)

    def _on_stage(self, ccid: str, stage: str, elapsed_s: float) -> None:
        self._entered[stage] = elapsed_s

    async def _launch(self) -> float:
        """Return how long a launch takes; the chaincode is gone again, its requests are seen."""
        self._watcher.seen()
        meter = Meter()
        await self._peer.chaincode.launch(self._ccid)
        (elapsed,) = meter.lap()
        await self._peer.chaincode.stop(self._ccid)
        return elapsed

    def _remove_image(self) -> None:
        if self._floor is not None:
            self._floor.remove_image()


async def measure(engines: list[EngineInUse], code: Path, launches: int) -> list[Row]:
    """Launch in every place in turn."""
    samples = Samples()
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        places = []
        for engine in engines:
            door = directory / f"{engine.name}.sock"
            watcher = stack.enter_context(Watcher.running(engine.socket, door))
            for scheme in SCHEMES:
                place = Place(engine, scheme, watcher)
                await place.open(code, door, stack)
                places.append(place)
        for _ in range(launches):
            for place in places:
                await place.sample(samples)
    return [row for place in places for row in place.rows(samples)]


if __name__ == "__main__":
    main(rows)
