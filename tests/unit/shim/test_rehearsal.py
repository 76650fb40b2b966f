"""A rehearsal goes as far as a start does before the peer answers, and leaves nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fabric_protos.stream import ChaincodeMessage, ChaincodeMessageType
from shim import rehearsal
from shim.transport import GrpcStream

LEAVES_NOTHING = """
import asyncio, gc, os, signal, sys, threading
import shim.main, shim.rehearsal

def found():
    gc.collect()
    return {
        "modules": set(sys.modules),
        "files": os.listdir("/proc/self/fd"),
        "threads": threading.enumerate(),
        "loops": [each for each in gc.get_objects() if isinstance(each, asyncio.BaseEventLoop)],
        "policy": asyncio.events._event_loop_policy,
        "signals": [signal.getsignal(number) for number in signal.valid_signals()],
    }

before = found()
shim.rehearsal.rehearse()
after = found()
assert before == after, (before, after)

async def name():
    return asyncio.current_task().get_name()

assert asyncio.run(name()) == "Task-1"
"""


def test_it_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    send = GrpcStream.send

    def send_and_tell(self: GrpcStream, data: bytes) -> None:
        send(self, data)
        sent.append((ChaincodeMessage.decode(data).type, self.queued))

    monkeypatch.setattr(GrpcStream, "send", send_and_tell)
    rehearsal.rehearse()
    assert sent == [(ChaincodeMessageType.REGISTER, 0)]  # and it is written


def test_it_leaves_nothing() -> None:
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", LEAVES_NOTHING]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
