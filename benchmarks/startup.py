"""What is waited for before anything answers: a peer, the demonstration, a command's help.

Room:      benchmarks   (drives ``python -m peer``, as a shell would)
Loop:      none
Lifetime:  one process
Fabric:    none

Not pinned: a start is work of several processes, and the second CPU shortens it for users too. The
peer starts on a data directory that has a channel, a ledger and a chaincode of Python. The client
is in this process: it has imported and signed what it needs before the clock starts, connects when
the peer says that it has started, and goes through the Gateway. All of it has run once before, so
that files are in the page cache and modules are compiled, as they are where the peer is installed.
CPU is that of the command with all processes it has waited for. The floor is a Python that does
nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import trio
from measure import CHAINCODES, CPU, YARDSTICK, Row, Samples, main
from served import ANYWHERE, CHANNEL, serving
from services import Gateway, Network
from wire import Wire

from peer import PeerConfig, open_peer
from peer.lifecycle.packages import pack

ROOT = Path(__file__).parent.parent
FLOOR = "floor: python -c pass"
STARTED = "node start to its line"
INVOKED = "node start to first committed invoke"
COMMANDS: dict[str, Sequence[str]] = {
    FLOOR: ("-c", "pass"),
    "import peer.assembly": ("-c", "import peer.assembly"),
    "demo": ("-m", "peer", "demo"),
    "--help": ("-m", "peer", "--help"),
    "node start --help": ("-m", "peer", "node", "start", "--help"),
    "chaincode invoke --help": ("-m", "peer", "chaincode", "invoke", "--help"),
    "lifecycle chaincode commit --help": (
        *("-m", "peer", "lifecycle", "chaincode", "commit", "--help"),
    ),
}
"""What is run from beginning to end."""


def rows(quick: bool) -> list[Row]:
    """Start everything in turn, several times."""
    samples = Samples()
    with tempfile.TemporaryDirectory() as directory:
        with serving(Path(directory), tls=False) as served:
            known = Network(served, tls=False)  # for the keys; the peer has ended when one starts
        trio.run(prepare, Path(directory))
        if not quick:
            take(Samples(), known)
        for _ in range(1 if quick else 7):
            samples.yardstick()
            take(samples, known)
    found = [samples.row(name, "ms", scale=1e3, to=FLOOR) for name in (STARTED, INVOKED)]
    found.append(samples.row(f"{INVOKED}, CPU", CPU, to=f"{FLOOR}, CPU"))
    for name in COMMANDS:
        to = "" if name == FLOOR else FLOOR
        found.append(samples.row(name, "ms", scale=1e3, to=to))
        found.append(samples.row(f"{name}, CPU", CPU, to=to and f"{to}, CPU"))
    return [*found, samples.row(YARDSTICK, CPU)]


async def prepare(directory: Path) -> None:
    """Leave behind what a peer that was used leaves: a channel, a chaincode and its state."""
    package = directory / "cc.tar.gz"
    package.write_bytes(pack(CHAINCODES / "library", "python", "cc"))
    config = PeerConfig()
    config = replace(config, peer=replace(config.peer, file_system_path=str(directory)))
    async with open_peer(config) as peer:
        await peer.install(package)
        result = await peer.invoke(CHANNEL, "cc", ["update", "k"])
        if not result.committed:
            raise RuntimeError(str(result))


def take(samples: Samples, known: Network) -> None:
    """Take one sample of each."""
    environment = _environment(known.served.directory)
    start(samples, known, environment)
    for name, arguments in COMMANDS.items():
        run(samples, name, arguments, environment)


def start(samples: Samples, known: Network, environment: Mapping[str, str]) -> None:
    """Start a peer, have one transaction committed, and end the peer."""
    proposal = known.put()
    node = {
        "CORE_PEER_FILESYSTEMPATH": str(known.served.directory),
        "CORE_PEER_LISTENADDRESS": ANYWHERE,
        "CORE_ORDERER_LISTENADDRESS": ANYWHERE,
    }
    command = [sys.executable, "-m", "peer", "node", "start"]
    began = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**environment, **node},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().decode().partition(" at ")[2].partition(";")[0]
            samples.add(STARTED, time.perf_counter() - began)
            with closing(Wire()) as wire:
                wire.run([Gateway(known, wire.connect(address)).invoke(proposal)])
            samples.add(INVOKED, time.perf_counter() - began)
        finally:
            process.terminate()
            samples.add(f"{INVOKED}, CPU", _waited_for(process))


def run(
    samples: Samples, name: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> None:
    """Run Python with some arguments from beginning to end."""
    command = [sys.executable, *arguments]
    began = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
        samples.add(f"{name}, CPU", _waited_for(process))
    samples.add(name, time.perf_counter() - began)


def _waited_for(process: subprocess.Popen[bytes]) -> float:
    """Wait for a process and return its CPU time, and that of those it has waited for."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{process.args} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime


def _environment(directory: Path) -> dict[str, str]:
    """Return the environment of a shell, with a place for compiled modules."""
    foreign = ("CORE_", "FABRIC_", "PYTHONDONTWRITEBYTECODE")
    plain = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    return plain | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'proto'}",
        "PYTHONPYCACHEPREFIX": str(directory / "compiled"),
    }


if __name__ == "__main__":
    main(rows)
