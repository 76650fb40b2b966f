"""The keeper's functions and refusals that need no process of its own."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtimes import origin as origins
from runtimes.api import ChaincodePackage, TcpOrigin
from runtimes.process import keeper, ownership
from runtimes.process.command import command_for
from runtimes.process.keeper import Keeper, Process, session_tree, with_descendants
from tests.contract.harness import until

TABLE = [
    Process(1, 0, 1),
    Process(10, 1, 10),  # a keeper
    Process(20, 10, 20),  # a main process
    Process(21, 20, 20),
    Process(22, 21, 22),  # a session of its own, below
    Process(30, 10, 20),  # an orphan in the session
    Process(31, 30, 31),
    Process(40, 10, 40),  # somebody else
]


def test_descendants() -> None:
    assert with_descendants([20], TABLE) == {20, 21, 22}
    assert with_descendants([10], TABLE) == {10, 20, 21, 22, 30, 31, 40}
    assert with_descendants([99], TABLE) == {99}
    assert with_descendants([], TABLE) == set()


def test_a_tree_is_what_is_below_or_in_the_session() -> None:
    assert session_tree(20, TABLE) == {20, 21, 22, 30, 31}
    without_leader = [row for row in TABLE if row.pid != 20]
    assert session_tree(20, without_leader) == {21, 22, 30, 31}
    assert session_tree(99, TABLE) == set()


def test_this_process_is_in_the_table() -> None:
    row = keeper.read_process(os.getpid())
    assert row == Process(os.getpid(), os.getppid(), os.getsid(0))
    assert row in keeper.process_table()


def test_a_process_that_has_gone_is_in_no_table() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert keeper.read_process(gone.pid) is None
    assert keeper.bearers(["x"], [gone.pid]) == set()
    keeper.send_signal([gone.pid], 0)
    assert list(origins._descriptors(gone.pid)) == []


@pytest.fixture
def marked() -> Iterator[int]:
    """A process with a mark, and with another one inside of an unrelated variable."""
    environment = {keeper.TOKEN: "abc", "OTHER": f"{keeper.TOKEN}=de"}
    with subprocess.Popen(["sleep", "1000"], env=environment) as process:
        yield process.pid
        process.kill()


async def test_a_mark_is_a_whole_variable(marked: int) -> None:
    await until(lambda: keeper.bearers(["abc", "x"], [marked, os.getpid()]) == {marked})
    assert keeper.bearers(["ab", "de"], [marked]) == set()


def test_a_refused_prctl_is_an_error() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        keeper.prctl(-1, 0)


def test_a_fork_that_fails_is_reported_and_closes_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_fork() -> int:
        raise OSError(errno.EAGAIN, "no more processes")

    monkeypatch.setattr(os, "fork", no_fork)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        before = os.listdir("/proc/self/fd")
        Keeper(theirs)._spawn({"number": 7}, os.open(os.devnull, os.O_WRONLY))
        assert len(os.listdir("/proc/self/fd")) == len(before)
        assert json.loads(ours.recv(1000)) == {
            "event": "failed",
            "number": 7,
            "stage": "fork",
            "errno": errno.EAGAIN,
        }


def test_a_descriptor_closed_meanwhile_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "listdir", lambda path: ["0", "999999"])
    assert len(list(origins._descriptors(os.getpid()))) == 1


def test_a_socket_in_no_process_of_the_tree_is_not_owned() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        subprocess.Popen(["sleep", "1000"], close_fds=True) as other,
    ):
        origin = TcpOrigin(remote=client.getsockname(), local=client.getpeername())
        assert ownership._holds_connection(os.getpid(), origin)
        assert not ownership._holds_connection(other.pid, origin)
        other.kill()


@pytest.mark.parametrize("jar", ["build/libs/chaincode.jar", "target/chaincode.jar"])
def test_a_jar_is_found_where_its_build_leaves_it(tmp_path: Path, jar: str) -> None:
    (tmp_path / jar).parent.mkdir(parents=True)
    (tmp_path / jar).touch()
    package = ChaincodePackage(ccid="a:1", type="java", path=tmp_path)
    assert command_for(package, "x")[2] == jar


def test_python_chaincode_runs_in_this_interpreter(tmp_path: Path) -> None:
    (tmp_path / "main.py").touch()
    package = ChaincodePackage(ccid="a:1", type="python", path=tmp_path)
    assert command_for(package, "x") == (sys.executable, "main.py", "-peer.address", "x")
