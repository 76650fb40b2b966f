"""A peer in a process of its own, with its gRPC services and a chaincode.

Room:      benchmarks   (a program of its own; started by services and hostile)
Loop:      Trio
Lifetime:  until standard input ends
Fabric:    none

Usage: served.py DIRECTORY [--tls]

Prints one line of JSON: addresses of the peer and of the orderer, process id of the chaincode.
Answers lines of standard input with lines: `sample` begins to take samples of what the peer does,
`stacks` ends it and tells them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import trio
from measure import CHAINCODES
from sampling import Sampler

from peer import PeerConfig, open_peer
from peer.cli import keep_all

ANYWHERE = "127.0.0.1:0"
CHANNEL = "mychannel"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A peer that runs.

    Attributes:
        pid: of the peer.
        chaincode: process id.
        directory: where its network is, with the keys of everybody.
    """

    pid: int
    chaincode: int
    address: str
    orderer: str
    directory: Path
    process: subprocess.Popen[bytes]

    def ask(self, line: str) -> dict[str, float]:
        """Have the process answer a line."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()
        answer: dict[str, float] = json.loads(self.process.stdout.readline())
        return answer


@contextmanager
def serving(directory: Path, *, tls: bool) -> Iterator[Served]:
    """Run a peer; it has ended when this has."""
    command = [sys.executable, __file__, str(directory), *(["--tls"] if tls else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            said = json.loads(process.stdout.readline())
            yield Served(pid=process.pid, directory=directory, process=process, **said)
        finally:
            process.stdin.close()


async def main(*args: str) -> None:
    """Hold the peer until standard input ends."""
    directory, *options = args
    config = PeerConfig()
    node = replace(
        config.peer,
        file_system_path=directory,
        listen_address=ANYWHERE,
        tls_enabled="--tls" in options,
    )
    config = replace(config, peer=node, orderer=replace(config.orderer, listen_address=ANYWHERE))
    async with open_peer(config) as peer:
        keep_all()  # as `node start` does
        await peer.install(CHAINCODES / "library", name="cc")
        pid = int((await peer.query(CHANNEL, "cc", ["pid"])).payload)
        said = {"address": peer.address, "orderer": peer.orderer_address, "chaincode": pid}
        print(json.dumps(said), flush=True)
        sampler = Sampler()
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            answer = sampler.start() if line == "sample\n" else sampler.stop()
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
