"""From the decision to start a Python chaincode to its READY, in the process runtime.

Room:      benchmarks   (drives peer.open_peer, as any program that embeds a peer)
Loop:      Trio
Lifetime:  one process
Fabric:    none

Not pinned: a launch is work of three processes, and the second CPU shortens it for users too. The
floors are what any Python program costs before its first line of ours.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import trio
from measure import CHAINCODES, Meter, Row, Samples, main

from peer import PeerConfig, open_peer
from peer.config import VmConfig

STAGES = ("build", "create", "start", "connect", "register", "ready")
WHOLE = "launch to READY"
COLD = "launch to READY, zygote off"
EMPTY = "floor: python -c pass"
CONNECTED = "floor: python that connects a socket"
IMPORT = "import of the chaincode library"
CONNECT = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
IMPORT_AND_TELL = """
from time import perf_counter
began = perf_counter()
from shim import Chaincode, start
import shim.client, shim.handler
print(perf_counter() - began)
"""


def rows(quick: bool) -> list[Row]:
    """Measure launches, their stages and their floors."""
    samples = trio.run(measure, 5 if quick else 40)
    stages = [f"{stage} to {following}" for stage, following in pairwise(STAGES)]
    return [
        samples.row(WHOLE, "ms", to=CONNECTED, scale=1e3),
        samples.percentile(WHOLE, 99, "ms"),
        samples.row(COLD, "ms", to=CONNECTED, scale=1e3),
        samples.percentile(COLD, 99, "ms"),
        *(samples.row(f"of it, {stage}", "ms", scale=1e3) for stage in stages),
        *(samples.row(floor, "ms", scale=1e3) for floor in (EMPTY, CONNECTED, IMPORT)),
    ]


async def measure(launches: int) -> Samples:
    """Return samples of each stage, in seconds, floors in between."""
    samples = Samples()
    entered: dict[str, float] = {}

    def on_stage(ccid: str, stage: str, elapsed_s: float) -> None:
        entered[stage] = elapsed_s

    cold_config = PeerConfig(vm=VmConfig(options={"process": {"zygote": "off"}}))
    async with open_peer(on_stage=on_stage) as peer, open_peer(cold_config) as cold_peer:
        package = await peer.install(CHAINCODES / "library")
        await cold_peer.install(CHAINCODES / "library")
        for each in (peer, cold_peer):  # the files are in the page cache from here on
            await each.chaincode.launch(package.ccid)
            await each.chaincode.stop(package.ccid)
        for _ in range(launches):
            meter = Meter()
            await peer.chaincode.launch(package.ccid)
            samples.add(WHOLE, *meter.lap())
            await peer.chaincode.stop(package.ccid)
            for stage, following in pairwise(STAGES):
                samples.add(f"of it, {stage} to {following}", entered[following] - entered[stage])
            meter.lap()
            await cold_peer.chaincode.launch(package.ccid)
            samples.add(COLD, *meter.lap())
            await cold_peer.chaincode.stop(package.ccid)
            _sample_floors(samples)
    return samples


def _sample_floors(samples: Samples) -> None:
    """Take one sample of each floor; the peer waits meanwhile, and has nothing to do."""
    meter = Meter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    samples.add(EMPTY, *meter.lap())
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
        path = str(Path(directory) / "socket")
        listener.bind(path)
        listener.listen()
        meter.lap()
        with subprocess.Popen([sys.executable, "-c", CONNECT, path]):
            listener.accept()[0].close()
            samples.add(CONNECTED, *meter.lap())
    told = subprocess.run(
        [sys.executable, "-c", IMPORT_AND_TELL], stdout=subprocess.PIPE, check=True
    )
    samples.add(IMPORT, float(told.stdout))


if __name__ == "__main__":
    main(rows)
