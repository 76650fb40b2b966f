"""A peer that starts a chaincode until it is killed; run by a test.

Its argument is a JSON object: engine, endpoint, state directory, and what `steps_spec` takes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import trio

from peer.rpc.loop import open_loop
from runtimes import docker, podman
from runtimes.api import RuntimeSettings
from tests.contract.containers import NETWORK_ID, TEST, steps_spec

BACKENDS = {"docker": docker.backend, "podman": podman.backend}


async def main(engine: str, endpoint: str, state: str, **spec: str) -> None:
    settings = RuntimeSettings(
        network_id=NETWORK_ID,
        peer_id=spec["peer_id"],
        state_dir=Path(state),
        options={"endpoint": endpoint, engine: {"hostConfig": {"Labels": {TEST: spec["mark"]}}}},
        on_output=lambda ccid, line: None,
    )
    async with open_loop(), BACKENDS[engine](settings) as backend:
        instance = await backend.start(steps_spec(**spec))
        await instance.wait()


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    trio.run(lambda: main(**arguments))
