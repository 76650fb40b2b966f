"""A peer that is killed by SIGKILL at a step of a container's start; run by a test.

Arguments: engine, endpoint, base image, peer id, state directory, socket, label, step. With ``!``
after its name the step has taken effect.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio

from peer.rpc.loop import open_loop
from runtimes import docker, podman
from runtimes.api import InstanceSpec, RuntimeSettings
from runtimes.containers.client import EngineClient
from tests.contract.containers import FILES, NETWORK_ID, TEST, image, package

BACKENDS = {"docker": docker.backend, "podman": podman.backend}


def die_at(step: str) -> None:
    name, after = step.removesuffix("!"), step.endswith("!")
    method = getattr(EngineClient, name)

    async def call_and_die(self: EngineClient, *args: Any, **kwargs: Any) -> Any:
        if after:
            await method(self, *args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(EngineClient, name, call_and_die)


async def main(
    engine: str,
    endpoint: str,
    base: str,
    peer_id: str,
    state: str,
    socket: str,
    label: str,
    step: str,
) -> None:
    settings = RuntimeSettings(
        network_id=NETWORK_ID,
        peer_id=peer_id,
        state_dir=Path(state),
        options={"endpoint": endpoint, engine: {"hostConfig": {"Labels": {TEST: label}}}},
        on_output=lambda ccid, line: None,
    )
    chaincode = package("asset:1.0", base, "exec sleep 1000")
    if step.startswith("build"):
        plan = image(f"FROM {base}\nRUN true\n", ("sleep", "1000"))
        chaincode = replace(chaincode, ccid=f"built:{label}", image=plan)
    spec = InstanceSpec(package=chaincode, peer_address=f"unix://{socket}", env={}, files=FILES)
    async with open_loop(), BACKENDS[engine](settings) as backend:
        if step != "started":
            die_at(step)
        await backend.start(spec)
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
