"""A peer of sorts, to be killed: runs two chaincodes on the process backend.

Arguments: directory of the package, state directory, the moment to die at, and the package's type.
The moment is `spawn`, `adopt` or `stop` (the request is out, the answer has reached nobody),
`forked` (a zygote's fork waits at its gate), `started`, or `killed` from outside.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import trio

from runtimes.api import ChaincodePackage, InstanceSpec, RuntimeSettings
from runtimes.process import backend, link, zygotes


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_after(request_name: str) -> None:
    """Die when the keeper has that request and its answer has reached nobody."""
    send = link.KeeperLink._send

    async def send_and_die(self: link.KeeperLink, request: Any, fd: int | None = None) -> None:
        await send(self, request, fd)
        if request["do"] == request_name:
            die()

    link.KeeperLink._send = send_and_die


def die_at_the_gate() -> None:
    """Die when a fork has said its process id."""
    fork = zygotes.Zygote.fork

    async def fork_and_die(self: zygotes.Zygote, script: str, output: int) -> Any:
        await fork(self, script, output)
        die()

    zygotes.Zygote.fork = fork_and_die


async def main(package: Path, state_dir: Path, moment: str, kind: str) -> None:
    if moment in ("spawn", "adopt", "stop"):
        die_after(moment)
    if moment == "forked":
        die_at_the_gate()
    settings = RuntimeSettings(
        network_id="",
        peer_id="",
        state_dir=state_dir,
        options={},
        on_output=lambda ccid, line: None,
    )
    async with backend(settings) as runtime:
        mark = os.environ["CONTRACT_MARK"]
        instances = [
            await runtime.start(
                InstanceSpec(
                    package=ChaincodePackage(ccid=f"{number}:1", type=kind, path=package),
                    peer_address="",
                    env={"CONTRACT_MARK": mark},
                )
            )
            for number in range(2)
        ]
        if moment == "started":
            die()
        if moment == "stop":
            await instances[0].stop()
        await trio.sleep_forever()


trio.run(main, Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
