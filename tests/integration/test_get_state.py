"""One GET_STATE through a whole peer: the figures of docs/architecture.md.

Room:      tests.integration   (imports peer)
Loop:      Trio
Lifetime:  one query
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType

import trio
from trio.testing import wait_all_tasks_blocked

from fabric_protos.stream import ChaincodeMessage, ChaincodeMessageType
from peer import open_peer

ROOT = Path(__file__).parents[2]
CODE = """
import shim

class Reader(shim.Chaincode):
    async def invoke(self, stub):
        return await stub.get_state("key")

shim.start(Reader())
"""
ENCODERS = ("fabric_protos.stream", "fabric_protos.transaction_messages")
OURS = ("peer", "runtimes", "fabric_protos")


class Watch(trio.abc.Instrument):
    """Notes what runs from the arrival of GET_STATE to that of the next message."""

    def __init__(self) -> None:
        self.is_armed = self.is_on = False
        self.modules: set[str] = set()
        self.decoded = 0
        self.encoded = 0
        self.tasks: list[str] = []

    def trace(self, ccid: str, from_chaincode: bool, message: ChaincodeMessage) -> None:
        if self.is_armed and message.type == ChaincodeMessageType.GET_STATE:
            self.is_on = True
            self.decoded = 1  # this one
            frame = sys._getframe(1)
            while frame.f_back is not None:  # how it came here
                self._note(frame)
                frame = frame.f_back
            sys.setprofile(self._profile)
        elif from_chaincode and self.is_on:
            sys.setprofile(None)
            self.is_on = False
            self.decoded -= 2  # the answer and the next message, to be shown here

    def _profile(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            self._note(frame)
            module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_name
            self.decoded += (module, name) == ("fabric_protos.wire", "decode")
            self.encoded += name == "encode" and module in ENCODERS

    def _note(self, frame: FrameType) -> None:
        module = frame.f_globals.get("__name__", "")
        is_guard = frame.f_code.co_qualname.startswith("_guarded.")  # of this trace
        if module.split(".")[0] in OURS and not is_guard:
            self.modules.add(module)

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        if self.is_on:
            self.tasks.append(task.name)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """A crossing between the loops is a step of a task that neither runs one nor reads."""
        reading = ("trio_asyncio.", "peer.rpc.transport.")
        if self.is_on and not task.name.startswith(reading):
            self.tasks.append(task.name)


def figures() -> dict[str, str]:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.split("<!-- begin: get_state -->")[1].partition("<!-- end -->")[0]
    return dict(re.findall(r"^\| (\w.*?) \| (.+?) \|$", table, re.MULTILINE))


async def test_the_figures_of_the_architecture_page(tmp_path: Path) -> None:
    (tmp_path / "chaincode.py").write_text(CODE)
    watch = Watch()
    async with open_peer(trace=watch.trace) as peer:
        await peer.install(tmp_path, name="reader")
        await peer.query("mychannel", "reader", [])
        await wait_all_tasks_blocked()  # what the launch left to do is done
        watch.is_armed = True
        trio.lowlevel.add_instrument(watch)
        try:
            result = await peer.query("mychannel", "reader", [])
        finally:
            sys.setprofile(None)
            trio.lowlevel.remove_instrument(watch)
    assert (result.status, result.payload, watch.is_on) == (200, b"", False)
    said = figures()
    assert set(re.findall(r"`([\w.]+)`", said.pop("modules"))) == watch.modules
    assert said == {
        "tasks started": "0",
        "crossings between the loops": "0",
        "messages decoded": str(watch.decoded),
        "messages encoded": str(watch.encoded),
    }
    assert watch.tasks == []
