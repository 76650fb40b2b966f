"""`start`: modes, exit statuses, signals; and the example, as programs are run."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import shim
from fabric_protos.stream import ChaincodeMessageType as T
from shim import main as main_module
from tests.unit.shim.grpc_peer import ListeningPeer, Script
from tests.unit.shim.scripted_peer import LIMIT_S, Calls, ScriptedPeer
from tests.unit.shim.test_handler import response_of
from tests.unit.shim.test_server import meet_once_it_listens
from tests.unit.shim.test_settings import fresh_logging
from tests.unit.shim.test_sockets import get, get_and_put

ROOT = Path(__file__).parents[3]
PROGRAM = ROOT / "examples" / "asset_transfer" / "chaincode.py"
ENV = {"CORE_CHAINCODE_ID_NAME": "mycc:1.0"}


@contextmanager
def peer_in_a_thread(script: Script) -> Iterator[str]:
    """A listening peer beside the thread that `start` blocks; gives its address."""
    address: list[str] = []
    listening = threading.Event()
    failures: list[BaseException] = []

    async def serve() -> None:
        peer = ListeningPeer(script)
        async with peer.listening() as where:
            address.append(where)
            listening.set()
            await asyncio.wait_for(peer.done.wait(), LIMIT_S)

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    assert listening.wait(LIMIT_S)
    yield address[0]
    thread.join(LIMIT_S)
    assert not thread.is_alive()
    assert failures == []


def status_of(capsys: pytest.CaptureFixture[str], *args: Any, **options: Any) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        shim.start(*args, **options)
    assert isinstance(caught.value.code, int)
    return caught.value.code, capsys.readouterr().err


def test_sigterm_waits_for_the_running_transaction(capsys: pytest.CaptureFixture[str]) -> None:
    async def script(peer: ScriptedPeer) -> None:
        await peer.shake_hands()
        peer.begin(b"f")
        request = await peer.receive()
        os.kill(os.getpid(), signal.SIGTERM)
        while (message := await refused(peer)) is None:
            pass
        assert message == b"the chaincode is shutting down"
        peer.answer(request, b"v")
        assert response_of(await peer.receive()).status == 200
        await peer.ended()

    async def refused(peer: ScriptedPeer) -> bytes | None:
        """Try another transaction until the signal has arrived."""
        peer.begin(b"f", txid="other")
        message = await peer.receive()
        if message.type == T.ERROR:
            return message.payload
        peer.answer(message)
        await peer.receive()
        return None

    with peer_in_a_thread(script) as address:
        assert status_of(capsys, Calls(get), ["-peer.address", address], ENV) == (0, "")


def test_the_end_of_the_stream_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with peer_in_a_thread(get_and_put) as address:
        status, text = status_of(capsys, Calls(get), ["-peer.address", address], ENV)
    assert (status, text) == (1, "chaincode: the peer ended the stream\n")


def test_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--peer.address", "unix:///nowhere/peer.sock"]
    status, text = status_of(capsys, Calls(get), argv, ENV)
    assert status == 1
    assert re.fullmatch(r"chaincode: no connection to unix:///nowhere/peer\.sock: .*\n", text)


def test_bad_setup_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CORE_CHAINCODE_ID_NAME", raising=False)
    monkeypatch.setattr(sys, "argv", ["chaincode", "--peer.address", "p:1"])
    assert status_of(capsys, Calls(get)) == (
        2,
        "chaincode: cannot start: 'CORE_CHAINCODE_ID_NAME' must be set\n",
    )


def test_ctrl_c(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main_module, "_serve", interrupted)
    status, text = status_of(capsys, Calls(get), ["-a", "p:1"], ENV)
    assert (status, text) == (130, "chaincode: interrupted\n")


def test_server_mode(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]

    async def meet_and_stop() -> None:
        await meet_once_it_listens(port)
        os.kill(os.getpid(), signal.SIGTERM)

    def run() -> None:
        asyncio.run(meet_and_stop())

    thread = threading.Thread(target=run)
    thread.start()
    env = ENV | {"CHAINCODE_SERVER_ADDRESS": f"localhost:{port}"}
    assert status_of(capsys, Calls(get), [], env) == (0, "")
    thread.join(LIMIT_S)
    assert not thread.is_alive()


@pytest.mark.parametrize("own", [True, False])
def test_logging_is_set_up_unless_the_program_did(
    own: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with fresh_logging() as (root, _):
        if own:
            root.addHandler(logging.NullHandler())
        _, text = status_of(
            capsys,
            Calls(get),
            ["-a", "unix:///nowhere/peer.sock"],
            ENV | {"CORE_CHAINCODE_LOGGING_LEVEL": "loud"},
        )
    assert ("unknown log level 'loud'" in text) is not own


# As a process


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_program_ends_on_signals(number: int, status: int) -> None:
    process: list[subprocess.Popen[bytes]] = []
    started = threading.Event()

    async def script(peer: ScriptedPeer) -> None:
        await peer.shake_hands()
        peer.begin(b"nosuch")
        answer = response_of(await peer.receive())
        assert (answer.status, answer.message[:26]) == (500, "unknown function 'nosuch';")
        await asyncio.to_thread(started.wait, LIMIT_S)
        process[0].send_signal(number)
        await peer.ended()

    with peer_in_a_thread(script) as address:
        process.append(
            subprocess.Popen(
                [sys.executable, str(PROGRAM), "-peer.address", address],
                env=os.environ | ENV,
                stderr=subprocess.PIPE,
            )
        )
        started.set()
        _, text = process[0].communicate(timeout=LIMIT_S)
    assert process[0].returncode == status
    assert b"ready as mycc:1.0" in text
    assert b"Traceback" not in text


def test_a_start_loads_no_more_than_it_needs() -> None:
    """Import time is launch time."""
    code = (
        "import sys, shim; from shim import Chaincode, start; import shim.client;"
        "print(*sorted(sys.modules))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    unwanted = {
        "betterproto2",
        "cryptography",
        "datetime",
        "fabric_protos.protos",
        "grpclib.client",
        "grpclib.server",
        "hashlib",
        "multidict",
        "shim.identity",
        "shim.results",
        "shim.server",
        "shim.sync_stub",
        "shim.tls",
        "trio",
    }
    assert unwanted.isdisjoint(loaded)
    assert "shim.handler" in loaded


# The public names


@pytest.mark.parametrize("name", shim.__all__)
def test_public_names_are_there_and_documented(name: str) -> None:
    value = getattr(shim, name)
    assert value.__doc__ if not isinstance(value, int) else value


def test_no_other_names() -> None:
    with pytest.raises(AttributeError, match="module 'shim' has no attribute 'nothing'"):
        _ = shim.nothing  # type: ignore[attr-defined]
    assert sorted(shim._HOME) == sorted(shim.__all__)


@pytest.mark.parametrize("kind", [shim.ChaincodeStub, shim.SyncChaincodeStub, shim.Results])
def test_public_methods_are_documented(kind: type) -> None:
    for name in dir(kind):
        if not name.startswith("_"):
            assert getattr(kind, name).__doc__, name
