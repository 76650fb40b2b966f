"""Start, watch and end chaincode processes on behalf of one peer.

Room:      runtimes.process   (a program of its own: the standard library only; its room imports it)
Loop:      none: one thread, one poll
Lifetime:  until the peer's end of the socket on file descriptor 0 closes
Fabric:    none; the external builder's run, core/container/externalbuilder/instance.go, comes near

A process of its own, because three things then hold whatever happens to the peer, SIGKILL included:
the closed socket is noticed and everything is killed; as a subreaper the keeper becomes the parent
of every orphan below it, so that nothing escapes; and a parent-death signal, which is bound to the
thread that forked, is bound to a thread that lives as long as the process.

One JSON object per packet. The peer sends ``spawn`` (with the output pipe attached), ``adopt`` (of
an orphan that a zygote made), ``stop`` and ``ping``; the answers are ``started`` or ``failed``,
``exited`` when the main process has ended, ``gone`` when its whole tree has, and ``pong``.
"""

from __future__ import annotations

import array
import errno
import json
import math
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, NoReturn

TOKEN = "TRIOPEER_INSTANCE"
"""Environment variable that marks every process of one instance."""

MAX_PACKET_BYTES = 1 << 20

_PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38


class Process(NamedTuple):
    """One row of the process table."""

    pid: int
    ppid: int
    session: int


def read_process(pid: int) -> Process | None:
    """Return one row of the process table, None if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(b")") + 2 :].split()  # the name before it may contain anything
    return Process(pid, int(fields[1]), int(fields[3]))


def process_table() -> list[Process]:
    """Return all processes, zombies included."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [row for pid in pids if (row := read_process(pid)) is not None]


def with_descendants(roots: Iterable[int], table: Collection[Process]) -> set[int]:
    """Return `roots` and everything below them."""
    children: dict[int, list[int]] = {}
    for row in table:
        children.setdefault(row.ppid, []).append(row.pid)
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, ())
    return found


def session_tree(leader: int, table: Collection[Process]) -> set[int]:
    """Return the live processes below `leader` or in its session, and all below those."""
    return with_descendants((row.pid for row in table if leader in (row.pid, row.session)), table)


def bearers(tokens: Collection[str], pids: Iterable[int]) -> set[int]:
    """Return those of `pids` that carry one of the tokens in their environment."""
    marks = {f"{TOKEN}={token}".encode() for token in tokens}
    found = set()
    for pid in pids:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if not marks.isdisjoint(file.read().split(b"\0")):
                    found.add(pid)
        except OSError:  # it has gone, or belongs to somebody else
            continue
    return found


def marked_processes(tokens: Collection[str]) -> set[int]:
    """Return every process of this machine that carries one of the tokens."""
    return bearers(tokens, (int(name) for name in os.listdir("/proc") if name.isdigit()))


def send_signal(pids: Iterable[int], signum: int) -> None:
    """Signal each process; those that have gone, or have another owner, are passed over."""
    for pid in pids:
        try:
            os.kill(pid, signum)
        except (ProcessLookupError, PermissionError):
            continue


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process.

    Raises:
        OSError: the kernel refused.
    """
    if _libc().prctl(option, value, 0, 0, 0) != 0:
        import ctypes

        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


@cache
def _libc() -> Any:
    import ctypes  # the peer imports this module for its functions and never needs it

    return ctypes.CDLL(None, use_errno=True)


@dataclass
class Child:
    """One instance: its main process and the rest of its tree.

    Attributes:
        kill_at: when to stop being polite, on the monotonic clock; None while it may live.
    """

    number: int
    pid: int
    token: str
    exited: bool = False
    kill_at: float | None = None


class Keeper:
    """Serves the requests of one peer until it closes the socket."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        self._children: dict[int, Child] = {}

    def run(self) -> None:
        """Serve, then kill every process below this one."""
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        wake_up, woken = socket.socketpair()
        for end in (wake_up, woken):
            end.setblocking(False)
        signal.set_wakeup_fd(wake_up.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the peer decides, not a tty
            signal.signal(signum, signal.SIG_IGN)
        poll = select.poll()
        poll.register(self._peer, select.POLLIN)
        poll.register(woken, select.POLLIN)
        try:
            while True:
                ready = {fd for fd, _ in poll.poll(self._patience_ms())}
                if woken.fileno() in ready:
                    woken.recv(4096)
                    self._reap()
                if self._peer.fileno() in ready and not self._serve():
                    return
                self._end_trees()
        except (BrokenPipeError, ConnectionResetError):  # the peer has gone
            return
        finally:
            _kill_everything_below()

    def _serve(self) -> bool:
        """Serve one request; False when there will be no more."""
        data, ancillary, _, _ = self._peer.recvmsg(
            MAX_PACKET_BYTES, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
        )
        if not data:
            return False
        fds = array.array("i")
        for _, _, payload in ancillary:
            fds.frombytes(payload)
        request = json.loads(data)
        match request["do"]:
            case "spawn":
                self._spawn(request, fds[0])
            case "adopt":
                self._adopt(request["number"], request["pid"], request["token"])
            case "stop":
                self._stop(request["number"], request["grace"])
            case "ping":
                self._tell("pong", request["number"])
        return True

    def _tell(self, event: str, number: int, **facts: object) -> None:
        self._peer.send(json.dumps({"event": event, "number": number, **facts}).encode())

    def _spawn(self, request: dict[str, Any], output: int) -> None:
        report, report_end = os.pipe()
        keeper = os.getpid()
        try:
            pid = os.fork()
            if pid == 0:
                become(request, output, report_end, keeper)
            failure = ""
        except OSError as exc:
            pid, failure = 0, f"fork {exc.errno}"
        finally:
            os.close(report_end)
            os.close(output)
        with open(report, "rb") as file:
            failure += file.read().decode()
        if not failure:
            self._children[request["number"]] = Child(request["number"], pid, request["env"][TOKEN])
            self._tell("started", request["number"], pid=pid)
            return
        if pid:
            os.waitpid(pid, 0)
        stage, code = failure.split()
        self._tell("failed", request["number"], stage=stage, errno=int(code))

    def _adopt(self, number: int, pid: int, token: str) -> None:
        """Take an orphan for the main process of an instance."""
        row = read_process(pid)
        taken = any(child.pid == pid and not child.exited for child in self._children.values())
        if row is None or row.ppid != os.getpid() or taken:
            self._tell("failed", number, stage="adopt", errno=errno.ESRCH)
            return
        self._children[number] = Child(number, pid, token)
        self._tell("started", number, pid=pid)

    def _stop(self, number: int, grace: float) -> None:
        child = self._children.get(number)
        if child is None:
            self._tell("gone", number)
            return
        if child.kill_at is None:
            child.kill_at = math.inf
            send_signal(self._tree(child), signal.SIGTERM)
        child.kill_at = min(child.kill_at, time.monotonic() + grace)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for child in self._children.values():
                if child.pid == pid and not child.exited:
                    child.exited = True
                    if child.kill_at is None:  # what is left of its tree has lost its purpose
                        child.kill_at = time.monotonic()
                    self._tell("exited", child.number, code=os.waitstatus_to_exitcode(status))

    def _end_trees(self) -> None:
        """Forget the trees that have gone and kill those whose time is up.

        Called after every death: an orphan becomes a child of the keeper, so the last process of a
        tree cannot end unnoticed, and one that was forked while its parents were being killed is
        found when they are reaped.
        """
        now = time.monotonic()
        for child in list(self._children.values()):
            if child.kill_at is None:
                continue
            # two looks: a process that forks and ends can hide its child from one
            tree = self._tree(child) or (self._tree(child) if child.exited else set())
            if child.exited and not tree:
                del self._children[child.number]
                self._tell("gone", child.number)
            elif now >= child.kill_at:
                send_signal(tree, signal.SIGKILL)

    def _tree(self, child: Child) -> set[int]:
        table = process_table()
        ours = with_descendants([os.getpid()], table) - {os.getpid()}
        strays = bearers([child.token], ours)
        return ours & (session_tree(child.pid, table) | with_descendants(strays, table))

    def _patience_ms(self) -> float | None:
        """Return how long to wait: until the next tree must be killed, else for a wake-up."""
        now = time.monotonic()
        pending = [
            child.kill_at - now
            for child in self._children.values()
            if child.kill_at is not None and child.kill_at > now
        ]
        return math.ceil(min(pending) * 1000) if pending else None


def _kill_everything_below() -> None:
    """Kill every descendant, however often they fork meanwhile, and reap them all."""
    while True:
        send_signal(
            with_descendants([os.getpid()], process_table()) - {os.getpid()}, signal.SIGKILL
        )
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


class NotReady(Exception):
    """A fresh process could not be made into the chaincode: the step and the error number."""


@contextmanager
def step(name: str) -> Iterator[None]:
    """Name the step that fails.

    Raises:
        NotReady: whatever was raised inside.
    """
    try:
        yield
    except OSError as exc:
        raise NotReady(f"{name} {exc.errno}") from exc
    except BaseException as exc:  # only the report can say it, standard error is the chaincode's
        raise NotReady(f"{name} {errno.EINVAL}") from exc


def become(request: dict[str, Any], output: int, report: int, keeper: int) -> NoReturn:
    """Turn this freshly forked process into the chaincode.

    A failure is written to `report` as the step and the error number; success closes it.
    """
    try:
        with step("prepare"):
            signal.set_wakeup_fd(-1)
            # SIGPIPE and SIGXFSZ are ignored by Python, others by whoever started the peer.
            for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(signum, signal.SIG_DFL)
        settle(request, output, report, keeper)
        with step("exec"):
            execute(request)
    except NotReady as exc:
        os.write(report, str(exc).encode())
    finally:
        os._exit(127)


def settle(request: dict[str, Any], output: int, report: int, keeper: int) -> None:
    """Give this freshly forked process all of a chaincode's surroundings that outlive an exec.

    Raises:
        NotReady: with the step that failed.
    """
    with step("prepare"):
        os.setsid()
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:  # it died before the line above
            os._exit(0)
        prctl(_PR_SET_NO_NEW_PRIVS, 1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        os.closerange(3, report)
        os.closerange(report + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    with step("cwd"):
        os.chdir(request["cwd"])
    with step("limits"):
        set_limits(request["limits"])


def set_limits(limits: dict[str, int]) -> None:
    """Lower resource limits, by their ``RLIMIT_`` name in lower case; none is ever raised.

    Raises:
        OSError: the kernel refused.
    """
    for name, wanted in limits.items():
        kind = getattr(resource, f"RLIMIT_{name.upper()}")
        hard = resource.getrlimit(kind)[1]
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (limit, limit))


def execute(request: dict[str, Any]) -> NoReturn:
    """Replace this process by the command, looked up in the PATH of its own environment.

    Raises:
        OSError: it does not exist or cannot be executed.
    """
    argv: list[str] = request["argv"]
    os.execvpe(argv[0], argv, request["env"])


def main() -> None:
    """Serve the peer at the other end of standard input."""
    with socket.socket(fileno=0) as peer:
        Keeper(peer).run()


if __name__ == "__main__":
    main()
