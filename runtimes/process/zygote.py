"""Fork Python chaincodes off an interpreter that has imported their library.

Room:      runtimes.process   (a program of its own, run by the chaincodes' interpreter: standard
           library, `keeper` beside it, and by name the library it imports for chaincodes)
Loop:      none: one thread
Lifetime:  a child of the keeper, until the peer's end of standard output closes
Fabric:    none

It never learns whom it forks for: what a chaincode finds in its command line and environment
reaches the fork alone, by a socket of its own, the gate.

1. Standard output is the socket to the peer. A request comes with two descriptors, the chaincode's
   output and a gate, and is refused if a chaincode by exec could find anything else than is here.
2. The fork's parent ends at once, so that the keeper adopts the fork, and the peer hears of it.
3. The fork tells the gate its process id, and waits. What comes makes it the chaincode; the end of
   the gate, whoever died, ends it. It reports a failure there, and success by closing it.

When nobody has asked for a while, a spare is forked. It rehearses its start, says so, and waits
until the next request is passed on to it, or until its zygote has ended.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import site
import socket
import sys
import time
from contextlib import suppress
from importlib import import_module
from importlib.machinery import SourceFileLoader
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtimes.process import keeper
else:
    keeper = import_module("keeper")  # in the directory of this program

del sys.modules["keeper"], sys.path[0]  # nothing here is a module of any chaincode

LIBRARY = ("shim.main", "shim.client", "shim.logs", "shim.sync_stub", "shim.workers")
"""What a chaincode that calls `shim.start` imports before it is registered."""
REHEARSAL = "shim.rehearsal"
"""What a spare does beforehand, where the library has it."""
REHEARSAL_LIMIT_S = 5

QUIET_S = 0.1
"""Without a request, before a spare is forked: a launch that has begun gets the CPU first."""

CLOCK_TICK_NS = 20_000_000
"""No kernel notes times less exactly."""

_STARTED, _ARG_START = 19, 45
"""Where a line of /proc/pid/stat, behind the name, has these."""


class Unfit(Exception):
    """No chaincode may be forked here: it could find something else than after an exec."""


def own_fields() -> list[int]:
    """Return the numbers in this process's line of /proc/pid/stat, behind name and state."""
    with open("/proc/self/stat", "rb") as file:
        text = file.read()
    return [0, *map(int, text[text.rindex(b")") + 4 :].split())]


def started_ns() -> int:
    """Return when this process began, on the clock of files."""
    ticks = own_fields()[_STARTED]
    age_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - ticks * 10**9 // os.sysconf("SC_CLK_TCK")
    return time.time_ns() - age_ns


class Shown:
    """The memory in which /proc finds this process's command line and environment.

    The environment begins with what all chaincodes of the zygote have in common, and that stays
    where it is. The mark comes next, and room for what else a chaincode has.

    Raises:
        Unfit: the memory is somewhere else.
    """

    def __init__(self) -> None:
        self._argv, self._argv_end, env, self._own_end = own_fields()[_ARG_START : _ARG_START + 4]
        mark = os.fsencode(f"{keeper.TOKEN}={os.environ[keeper.TOKEN]}\0")
        place = ctypes.string_at(env, self._own_end - env).find(mark)
        if place < 0:
            raise Unfit("its environment is not where the kernel says")
        self._own = env + place
        self._common = dict(os.environ)

    def replace(self, argv: list[str], env: dict[str, str]) -> None:
        """Show a chaincode's, as much of it as there is room for; nothing may use the old ones."""
        own = {keeper.TOKEN: env[keeper.TOKEN]}  # what must be shown
        own |= {name: value for name, value in env.items() if self._common.get(name) != value}
        _fill(self._argv, self._argv_end, argv)
        _fill(self._own, self._own_end, [f"{name}={value}" for name, value in own.items()])


def _fill(start: int, end: int, words: list[str]) -> None:
    text = b"\0".join(map(os.fsencode, words))
    ctypes.memmove(start, text[: end - start - 1].ljust(end - start, b"\0"), end - start)


class Sources:
    """The files and directories that decide what the imports of this interpreter give."""

    def __init__(self) -> None:
        modules = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
        files: set[str] = {file for file in modules if file}
        files |= {sys.executable, os.path.join(sys.prefix, "pyvenv.cfg")}
        directories = {*sys.path, *map(os.path.dirname, files)}
        for directory in filter(os.path.isdir, sys.path):
            found = [name for name in os.listdir(directory) if name.endswith(".pth")]
            files |= {os.path.join(directory, name) for name in found}
        self._files = {path: _state(path) for path in files}
        self._directories = {path: (_state(path), _importable(path)) for path in directories}

    def changed_since(self, time_ns: int) -> str | None:
        """Return a file that was changed since."""
        for path, seen in self._files.items():
            if seen is not None and seen[1] > time_ns - CLOCK_TICK_NS:
                return path
        return None

    def changed(self) -> str | None:
        """Return something that is not what it was."""
        for path, seen in self._files.items():
            if _state(path) != seen:
                return path
        for path, (before, names) in self._directories.items():
            if (now := _state(path)) != before:
                if _importable(path) != names:
                    return path
                self._directories[path] = now, names
        return None


def _importable(directory: str) -> set[str]:
    """Return the entries that an import or a start could look at."""
    try:
        names = os.listdir(directory)
    except OSError:
        return set()
    return {
        name
        for name in names
        if name.endswith(".pth")
        or (name.partition(".")[0].isidentifier() and name != "__pycache__")
    }


def _state(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns


def check_single(control: int) -> None:
    """
    Raises:
        Unfit: imports have left a thread or a descriptor, which no fork can take along.
    """
    if len(os.listdir("/proc/self/task")) > 1:
        raise Unfit("an import has started a thread")
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2 and fd != control:
            try:
                name = os.readlink(f"/proc/self/fd/{fd}")
            except OSError:  # that of the list itself
                continue
            raise Unfit(f"an import keeps {name} open")


class Zygote:
    """Serves the peer until it closes the socket, or until this process is a fork."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._spare: socket.socket | None = None

    def serve(self) -> None:
        """Fork for each request; return in the fork, when it has become the chaincode."""
        try:
            for name in LIBRARY:
                import_module(name)
            with suppress(ImportError):  # there is no spare then
                import_module(REHEARSAL)
            keeper.prctl(keeper.PR_SET_CHILD_SUBREAPER, 0)  # as it is; loads what a fork needs
            shown = Shown()
            check_single(self._control.fileno())
        except (ImportError, Unfit) as exc:
            self._tell(unfit=str(exc))
            os._exit(0)
        self._sources = Sources()
        if (path := self._sources.changed_since(started_ns())) is not None:
            self._tell(changed=path)
            os._exit(0)
        self._names = {name.partition(".")[0] for name in sys.modules}
        self._tell(ready=sys.executable, argv=sys.orig_argv)
        while (fds := self._next_fork()) is None:
            pass
        self._control.detach()  # becoming the chaincode closes it
        output, gate = fds
        await_birth(output, gate, shown)

    def _next_fork(self) -> list[int] | None:
        """Serve one request or fork a spare; return a request's descriptors in its fork."""
        wants_spare = self._spare is None and REHEARSAL in sys.modules
        self._control.settimeout(QUIET_S if wants_spare else None)
        try:
            packet, fds = receive(self._control)
        except TimeoutError:
            return self._make_spare()
        if not packet:
            os._exit(0)
        request: dict[str, Any] = json.loads(packet)
        answer = self._answer(request["script"], fds)
        if answer is None:
            return fds
        self._tell(number=request["number"], **answer)
        for fd in fds:
            os.close(fd)
        return None

    def _tell(self, **facts: object) -> None:
        self._control.send(json.dumps(facts).encode())

    def _answer(self, script: str, fds: list[int]) -> dict[str, object] | None:
        """Find a fork for a request, and return what to tell of it; None in one made for it."""
        if (path := self._sources.changed()) is not None:
            return {"changed": path}
        try:
            directory = os.path.dirname(os.path.realpath(script))
            own = {name.partition(".")[0] for name in os.listdir(directory)}
        except OSError as exc:
            return {"refused": str(exc)}
        if shadows := sorted(own & self._names):
            return {"refused": f"{shadows[0]} is a module of its own"}
        try:
            if not self._pass_on(fds) and fork():
                return None
        except OSError as exc:
            return {"refused": f"fork: {exc.strerror}"}
        return {"forked": True}

    def _pass_on(self, fds: list[int]) -> bool:
        """Give a request to the spare; False if there is none, or none that lives and is ready."""
        spare, self._spare = self._spare, None
        if spare is None:
            return False
        with spare:
            try:
                if not spare.recv(1, socket.MSG_DONTWAIT):
                    return False
                socket.send_fds(spare, [b"."], fds)
            except (BlockingIOError, ConnectionError):
                return False
        return True

    def _make_spare(self) -> list[int] | None:
        """Fork a spare; in the spare, rehearse, wait, and return the descriptors of its request."""
        self._spare, waiting = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with waiting:
            try:
                if not fork():
                    return None
            except OSError:  # the next request tries again
                return None
            try:
                signal.alarm(REHEARSAL_LIMIT_S)
                sys.modules[REHEARSAL].rehearse()
                signal.alarm(0)
                waiting.send(b".")
                self._spare.close()
                _, (output, gate) = receive(waiting)
            except BaseException:  # nobody would hear of it, or its zygote has ended
                os._exit(127)
        return [output, gate]


def fork() -> bool:
    """Fork; False here, and True in what has become a child of the keeper.

    Raises:
        OSError: the kernel refused.
    """
    parent = os.fork()
    if parent == 0:
        try:
            if os.fork() == 0:
                return True
        except OSError as exc:
            os._exit(exc.errno or 1)
        os._exit(0)
    if code := os.waitstatus_to_exitcode(os.waitpid(parent, 0)[1]):
        raise OSError(code, os.strerror(code))
    return False


def receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    """Return one packet and its descriptors; neither at the end."""
    packet, fds, _, _ = socket.recv_fds(
        sock, keeper.MAX_PACKET_BYTES, 2, flags=socket.MSG_CMSG_CLOEXEC
    )
    return packet, fds


def await_birth(output: int, gate: int, shown: Shown) -> None:
    """Wait at the gate and become the chaincode."""
    try:
        with socket.socket(fileno=gate) as peer:
            peer.send(str(os.getpid()).encode())
            packet = peer.recv(keeper.MAX_PACKET_BYTES)
            if not packet:
                os._exit(0)
            request: dict[str, Any] = json.loads(packet)
            try:
                keeper.settle(request, output, gate, request["keeper"])
                with keeper.step("prepare"):
                    replace_surroundings(request["argv"], request["env"])
                    shown.replace(request["argv"], request["env"])
            except keeper.NotReady as exc:
                peer.send(str(exc).encode())
                os._exit(127)
    except BaseException:  # nobody would hear of it
        os._exit(127)


def replace_surroundings(argv: list[str], env: dict[str, str]) -> None:
    """Give the interpreter what it would have found in argv, environment and directory."""
    os.environ.clear()
    os.environ.update(env)
    if "threading" in sys.modules:  # which looks up all of a fork's numbers but this one
        sys.modules["threading"].main_thread()._set_native_id()
    if site.USER_BASE is not None:  # both were made from HOME
        site.USER_BASE = site.USER_SITE = None
        site.getusersitepackages()
    sys.orig_argv, sys.argv = argv, argv[1:]
    script = os.path.abspath(sys.argv[0])
    sys.path.insert(0, os.path.dirname(os.path.realpath(script)))
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__loader__ = SourceFileLoader("__main__", script)
    main.__file__ = script
    vars(main).update(__annotations__={}, __builtins__=sys.modules["builtins"], __cached__=None)


def below_main(traceback: TracebackType | None) -> TracebackType | None:
    """Return a traceback from the first frame of the chaincode's program on."""
    while traceback is not None and traceback.tb_frame.f_globals is not namespace:
        traceback = traceback.tb_next
    return traceback


if __name__ == "__main__":
    Zygote(socket.socket(fileno=os.dup(1))).serve()
    namespace = vars(sys.modules["__main__"])
    try:
        with open(namespace["__file__"], "rb") as file:
            source = file.read()
        exec(compile(source, file.name, "exec", dont_inherit=True), namespace)
    except BaseException:
        hook = sys.excepthook
        sys.excepthook = lambda kind, exc, traceback: hook(
            kind, exc.with_traceback(below_main(traceback)), below_main(traceback)
        )
        raise
