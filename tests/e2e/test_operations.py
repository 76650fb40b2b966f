"""The operations endpoint of a peer that was started as people start it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "CORE_OPERATIONS_LISTENADDRESS": "127.0.0.1:0",
    "CORE_METRICS_PROVIDER": "prometheus",
    "CORE_PEER_LISTENADDRESS": "127.0.0.1:0",
    "CORE_ORDERER_LISTENADDRESS": "127.0.0.1:0",
    "FABRIC_LOGGING_FORMAT": "json",
}


@pytest.fixture
def peer() -> Iterator[subprocess.Popen[str]]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CORE_", "FABRIC_"))}
    with subprocess.Popen(
        [sys.executable, "-m", "peer", "node", "start"],
        env={**kept, **SETTINGS, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ask(address: str, path: str, method: str = "GET", body: bytes | None = None) -> str:
    request = urllib.request.Request(f"http://{address}{path}", body, method=method)
    with urllib.request.urlopen(request, timeout=30) as response:
        return str(response.read().decode())


def record(peer: subprocess.Popen[str], pattern: str) -> dict[str, str]:
    """Return the next log record whose message matches."""
    assert peer.stderr is not None
    for line in peer.stderr:
        found: dict[str, str] = json.loads(line)
        if re.search(pattern, found["msg"]):
            return found
    raise AssertionError(f"the log ended without {pattern}")


def test_a_started_peer_answers_and_ends_though_a_client_is_silent(
    peer: subprocess.Popen[str],
) -> None:
    address = record(peer, r"^operations endpoint at ")["msg"].split()[-1]
    assert json.loads(ask(address, "/healthz"))["status"] == "OK"
    assert 'ledger_blockchain_height{channel="mychannel"} 1\n' in ask(address, "/metrics")
    assert ask(address, "/logspec", "PUT", b'{"spec":"peer.operations=debug:error"}') == ""
    assert record(peer, r"^log levels are now ")["msg"].endswith("peer.operations=debug:error")
    assert ask(address, "/logspec") == '{"spec":"peer.operations=debug:error"}'
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port))):
        peer.send_signal(signal.SIGTERM)
        assert peer.stderr is not None
        assert peer.stderr.read() == "", "whatever the end would tell is below error"
        assert peer.wait(60) == 0
