"""A forked Python chaincode finds what an executed one does; where it might not, it is executed."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from runtimes.api import ExitStatus, InstanceSpec, OptionRejected, StartFailed
from runtimes.process import zygotes
from tests.contract.harness import (
    LIMIT_S,
    PYTHON_BROOD,
    PYTHON_BROOD_SIZE,
    ProcessHarness,
    cancelled_at_step,
    inside,
    keepers,
    pids_of,
    python,
    settled,
    until,
    with_spare,
)

FORKED = "import sys; forked = 'shim.client' in sys.modules\n"
SERVES = f"{FORKED}print(forked)\nimport time\ntime.sleep(1000)\n"

REPORT = """\
import sys
main = {name: repr(value) for name, value in sorted(globals().items()) if name != "sys"}
import asyncio, gc, json, locale, os, resource, signal, site, stat, tempfile, threading, warnings
def lines(*names):
    return [line.split() for line in open("/proc/self/status") if line.startswith(names)]
def stream(file):
    raw = file.buffer.raw if hasattr(file.buffer, "raw") else file.buffer
    return [
        file.encoding, file.errors, file.line_buffering, file.write_through, file.isatty(),
        file.seekable(), file.mode, file.name, type(file.buffer).__name__, raw.fileno(),
    ]
def kind_of(fd):
    try:
        return stat.S_IFMT(os.fstat(fd).st_mode)
    except OSError:
        return None
def running():
    try:
        return repr(asyncio.get_running_loop())
    except RuntimeError as exc:
        return str(exc)
async def task():
    return asyncio.current_task().get_name()
print(json.dumps({
    "main": main,
    "frames": repr(sys._getframe().f_code),
    "argv": sys.argv, "orig_argv": sys.orig_argv, "path": sys.path, "flags": repr(sys.flags),
    "python": [sys.executable, sys.prefix, sys.base_prefix, sys.version, sys.dont_write_bytecode],
    "hooks": [repr(sys.excepthook), repr(sys.displayhook)],
    "warnings": [repr(warnings.filters), sys.warnoptions, sys._xoptions],
    "environ": dict(os.environ), "cwd": os.getcwd(), "umask": os.umask(0o22),
    "shown": open("/proc/self/cmdline").read().rstrip("\\0").split("\\0"),
    "shown_environ": sorted(filter(None, open("/proc/self/environ").read().split("\\0"))),
    "name": open("/proc/self/comm").read(), "exe": os.readlink("/proc/self/exe"),
    "fds": [(fd, kind_of(fd)) for fd in range(512) if kind_of(fd)],
    "inheritable": [os.get_inheritable(fd) for fd in range(3)],
    "streams": [stream(sys.stdin), stream(sys.stdout), stream(sys.stderr)],
    "limits": {name: resource.getrlimit(getattr(resource, name))
               for name in dir(resource) if name.startswith("RLIMIT_")},
    "status": lines("SigBlk", "SigIgn", "SigCgt", "NoNewPrivs", "Seccomp", "Cap", "Threads",
                    "Uid", "Gid", "Groups"),
    "signals": [repr(signal.getsignal(n)) for n in sorted(signal.valid_signals())],
    "wakeup": signal.set_wakeup_fd(-1),
    "session": [os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()],
    "parent": open(f"/proc/{os.getppid()}/comm").read(), "keeper": os.getppid(),
    "threads": [threading.active_count(), threading.main_thread() is threading.current_thread(),
                threading.main_thread().native_id == os.getpid()],
    "places": [tempfile.gettempdir(), site.USER_BASE, site.USER_SITE, os.path.expanduser("~")],
    "loop": running(), "task": asyncio.run(task()), "locale": locale.setlocale(locale.LC_CTYPE),
    "gc": [gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()],
    "priority": [os.getpriority(os.PRIO_PROCESS, 0), sorted(os.sched_getaffinity(0))],
}))
"""


async def run(
    harness: ProcessHarness, *specs: InstanceSpec, spare: bool = False
) -> list[tuple[tuple[str, ...], str]]:
    """Run chaincodes to their ends, one after the other; return what each said and its status.

    Args:
        spare: each is to be the spare of its zygote.
    """
    said = []
    async with harness.open() as backend:
        for spec in specs:
            if spare:
                await with_spare(backend, spec)
            instance = await backend.start(spec)
            with trio.fail_after(LIMIT_S):
                status = await instance.wait()
            said.append((instance.tail(), str(status)))
            await instance.stop()
    return said


def zygote_pids() -> set[int]:
    return pids_of("zygote")


@pytest.fixture
def off(tmp_path: Path) -> ProcessHarness:
    """The same, without zygotes."""
    (tmp_path / "off").mkdir()
    return ProcessHarness(tmp_path / "off", {"zygote": "off"})


def without_names(text: str, spec: InstanceSpec) -> str:
    """Return a report without what differs between two starts in any case."""
    text = text.replace(str(spec.package.path), "PACKAGE")
    text = re.sub(r'[^"]*/state/instances/[0-9a-f]{32}', "INSTANCE", text)
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    text = re.sub(r"[-0-9a-f]{32,36}", "TOKEN", text)
    return re.sub(r'"keeper": \d+', '"keeper": 0', text)


@pytest.mark.parametrize("spare", [False, True])
@pytest.mark.parametrize("options", [{}, {"openFiles": 200, "memory": 1 << 30, "processes": 5000}])
async def test_a_fork_finds_what_an_exec_finds(
    tmp_path: Path, options: dict[str, object], spare: bool
) -> None:
    reports = []
    for switch in ("auto", "off"):
        (tmp_path / switch).mkdir()
        harness = ProcessHarness(tmp_path / switch, {**options, "zygote": switch})
        spec = python(harness, FORKED.replace("\n", "; print(forked)\n") + REPORT)
        (((forked, report), _),) = await run(harness, spec, spare=spare and switch == "auto")
        assert forked == str(switch == "auto")
        text = without_names(report, spec).replace(str(tmp_path / switch), "HERE")
        found = json.loads(text)
        assert found["main"].pop("forked") == forked
        reports.append(found)
    assert reports[0] == reports[1]


async def test_a_build_gets_it_ready(harness: ProcessHarness) -> None:
    spec = replace(python(harness, SERVES), env={"CORE_CHAINCODE_ID_NAME": "asset:1.0"})
    async with harness.open() as backend:
        await backend.build(spec.package)
        await until(lambda: len(zygote_pids()) == 1)
        [zygote] = zygote_pids()
        await backend.build(spec.package)
        instance = await backend.start(spec)
        await until(lambda: instance.tail() == ("True",))
        assert zygote_pids() == {zygote}
        await instance.stop()
    await until(lambda: not zygote_pids())


async def test_what_a_build_could_not_get_ready_is_executed(
    harness: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zygotes, "PROGRAM", Path("/nowhere"))
    spec = python(harness, SERVES)
    async with harness.open() as backend:
        await backend.build(spec.package)
        instance = await backend.start(spec)
        await until(lambda: instance.tail() == ("False",))
        await instance.stop()


async def test_it_is_a_child_of_the_keeper_with_a_mark_of_its_own(harness: ProcessHarness) -> None:
    async with harness.open() as backend:
        instance = await backend.start(python(harness, SERVES))
        await until(lambda: harness.lines)
        assert harness.lines == [("asset:1.0", "True")]
        (pid,) = pids_of("chaincode")
        environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        (zygote,) = zygote_pids()
        of_zygote = Path(f"/proc/{zygote}/environ").read_bytes().split(b"\0")
        mark = b"TRIOPEER_INSTANCE="
        marks = [{e for e in env if e.startswith(mark)} for env in (environ, of_zygote)]
        assert len(marks[0]) == len(marks[1]) == 1
        assert marks[0] != marks[1]
        os.kill(zygote, signal.SIGKILL)
        await until(lambda: zygote not in zygote_pids())
        assert Path(f"/proc/{pid}").exists()
        await instance.stop()
        assert not Path(f"/proc/{pid}").exists()
    assert not harness.left()


@pytest.mark.parametrize("spare", [False, True])
async def test_forks_draw_different_random_numbers(harness: ProcessHarness, spare: bool) -> None:
    source = (
        f"{FORKED}import random, secrets, ssl, uuid, tempfile\n"
        "print(forked, random.random(), secrets.token_hex(), ssl.RAND_bytes(8).hex(), uuid.uuid4(),"
        " next(tempfile._get_candidate_names()))"
    )
    said = await run(harness, *[python(harness, source)] * 3, spare=spare)
    columns = list(zip(*(tail[0].split() for tail, _ in said), strict=True))
    assert columns[0] == ("True",) * 3
    for column in columns[1:]:
        assert len(set(column)) == 3


async def test_no_fork_knows_of_another(harness: ProcessHarness) -> None:
    """What one was given is in the memory of neither the zygote nor the next."""
    source = """\
import os
def occurrences(process):
    found = 0
    with open(f"/proc/{process}/maps") as maps, open(f"/proc/{process}/mem", "rb") as memory:
        for line in maps:
            if " rw" in line:
                start, end = (int(part, 16) for part in line.split()[0].split("-"))
                memory.seek(start)
                found += memory.read(end - start).count(b"very-%s-secret" % b"well-kept")
    return found
"""
    told = python(
        harness, f"{source}print(occurrences('self'))", env={"CORE_SECRET": "very-well-kept-secret"}
    )
    other = python(harness, f"{FORKED}{source}print(forked, occurrences('self'))")
    async with harness.open() as backend:
        for spec in (told, other):
            instance = await backend.start(spec)
            with trio.fail_after(LIMIT_S):
                await instance.wait()
            harness.lines.append(("", "|".join(instance.tail())))
            await instance.stop()
        scope: dict[str, object] = {}
        exec(source, scope)
        (zygote,) = zygote_pids()
        assert scope["occurrences"](zygote) == 0  # type: ignore[operator]  # defined just above
    lines = [line for ccid, line in harness.lines if not ccid]
    assert int(lines[0]) > 0  # the search finds what is there
    assert lines[1] == "True 0"


ENDINGS = {
    "returns": "print('done')",
    "raises": "def f():\n    raise ValueError('no')\nf()",
    "chained": "try:\n    1/0\nexcept ZeroDivisionError as e:\n    raise ValueError('no') from e",
    "syntax": "def broken(:\n",
    "code": "import sys\nsys.exit(3)",
    "text": "raise SystemExit('a reason')",
    "interrupted": "raise KeyboardInterrupt",
    "own hook": "import sys\nsys.excepthook = lambda k, e, t: print(e, t.tb_lineno, t.tb_next)\n"
    "1/0",
    "atexit": "import atexit\natexit.register(print, 'bye')\nimport threading\n"
    "def late():\n    threading.main_thread().join()\n    print('thread')\n"
    "threading.Thread(target=late).start()\n1/0",
    "asyncio": "import asyncio\nasync def f():\n    await asyncio.to_thread(print, 'worker')\n"
    "    p = await asyncio.create_subprocess_exec('echo', 'child')\n    await p.wait()\n"
    "asyncio.run(f())",
    "processes": "import multiprocessing as m, sys\ndef f(): print('child', flush=True)\n"
    "if __name__ == '__main__':\n    for k in 'fork', 'spawn':\n"
    "        p = m.get_context(k).Process(target=f); p.start(); p.join(); print(p.exitcode)",
    "coding": "# coding: latin-1\nprint('caf\xe9')",
    "future": "def f(x: int): pass\nprint(f.__annotations__)",
}


@pytest.mark.parametrize("spare", [False, True])
async def test_a_fork_ends_as_an_exec_does(
    harness: ProcessHarness, off: ProcessHarness, spare: bool
) -> None:
    forked, executed = (
        [python(each, text) for text in ENDINGS.values()] for each in (harness, off)
    )
    said, expected = await run(harness, *forked, spare=spare), await run(off, *executed)
    for name, ours, theirs, spec, other in zip(
        ENDINGS, said, expected, forked, executed, strict=True
    ):
        text = "\n".join(ours[0]).replace(str(spec.package.path), "PACKAGE")
        assert (name, text, ours[1]) == (
            name,
            "\n".join(theirs[0]).replace(str(other.package.path), "PACKAGE"),
            theirs[1],
        )


async def test_own_modules_are_imported_by_each_fork_anew(harness: ProcessHarness) -> None:
    spec = python(
        harness, f"{FORKED}import mine\nprint(forked, mine.VALUE)", {"mine.py": "VALUE=1"}
    )
    async with harness.open() as backend:
        for value in ("1", "2"):
            (spec.package.path / "mine.py").write_text(f"VALUE = {value}  # {'x' * int(value)}")
            instance = await backend.start(spec)
            await instance.wait()
            assert instance.tail() == (f"True {value}",)
            await instance.stop()


# executed, as forking could change something


@pytest.mark.parametrize(
    ("files", "env"),
    [
        ({"logging.py": "loggers = 'own'"}, {}),
        ({"h2.cpython-311-x86_64-linux-gnu.so": ""}, {}),
        ({}, {"PYTHONHASHSEED": "1"}),
        ({}, {"PYTHONPATH": "/elsewhere"}),
        ({}, {"HOME": "/somewhere"}),
        ({}, {"CORE_LONG": "x" * (zygotes.MAX_REQUEST_BYTES - 100)}),
    ],
)
async def test_it_is_executed_where_forking_could_matter(
    harness: ProcessHarness, files: Mapping[str, str], env: Mapping[str, str]
) -> None:
    ((said, _),) = await run(harness, python(harness, f"{FORKED}print(forked)", files, env))
    assert said == ("False",)


async def test_a_package_of_the_chaincode_shadows_the_library(harness: ProcessHarness) -> None:
    spec = python(harness, "import shim\nprint(shim.OWN)")
    (spec.package.path / "shim").mkdir()
    (spec.package.path / "shim" / "__init__.py").write_text("OWN = 'own'")
    assert await run(harness, spec) == [(("own",), "exit code 0")]


async def test_off_is_off(off: ProcessHarness) -> None:
    async with off.open() as backend:
        spec = python(off, SERVES)
        await backend.build(spec.package)
        await backend.start(spec)
        await until(lambda: off.lines)
        assert off.lines == [("asset:1.0", "False")]
        assert not zygote_pids()


@pytest.mark.parametrize("value", [False, "off"])
def test_yaml_spells_off_in_two_ways(value: object, tmp_path: Path) -> None:
    from runtimes.process.options import ProcessOptions

    assert not ProcessOptions.read({"process": {"zygote": value}}).zygote


async def test_another_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionRejected, match="'on' is neither auto nor off"):
        async with ProcessHarness(tmp_path, {"zygote": "on"}).open():
            pass


async def test_another_kind_has_another_zygote_and_few_are_kept(
    harness: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zygotes, "MAX_ZYGOTES", 2)
    source = f"{FORKED}import os\nprint(forked, os.environ.get('OTHER'))"
    async with harness.open() as backend:
        seen: list[set[int]] = []
        for other in ("a", "b", "a", "c", "a", "b"):
            instance = await backend.start(python(harness, source, env={"OTHER": other}))
            await instance.wait()
            assert instance.tail() == (f"True {other}",)
            seen.append(zygote_pids())
            await instance.stop()
        await until(lambda: len(zygote_pids()) == 2)
        assert seen[0] < seen[1] == seen[2]  # a's own is used again
        assert seen[0] <= seen[4]  # b's was ended for c's, as a's had been used since
        assert not seen[1] & zygote_pids() - seen[0]
    assert not harness.left()


# zygotes in trouble


async def forked_after(harness: ProcessHarness, backend: object) -> bool:
    instance = await backend.start(python(harness, f"{FORKED}print(forked)"))  # type: ignore[attr-defined]  # a RuntimeBackend
    with trio.fail_after(LIMIT_S):
        await instance.wait()
    (said,) = instance.tail()
    await instance.stop()
    return bool(said == "True")


async def test_a_zygote_that_died_is_replaced(
    harness: ProcessHarness, caplog: pytest.LogCaptureFixture
) -> None:
    async with harness.open() as backend:
        assert await forked_after(harness, backend)
        (former,) = zygote_pids()
        os.kill(former, signal.SIGKILL)  # seen at once, or when it is asked
        assert await forked_after(harness, backend)
        assert zygote_pids() - {former}


async def test_a_zygote_that_hangs_is_replaced(
    harness: ProcessHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "runtimes.process")
    async with harness.open() as backend:
        assert await forked_after(harness, backend)
        (former,) = zygote_pids()
        os.kill(former, signal.SIGSTOP)
        monkeypatch.setattr(zygotes, "ANSWER_LIMIT_S", 0.3)
        await forked_after(harness, backend)  # by its successor, or on a slow machine by exec
        await until(lambda: former not in zygote_pids())
        assert "is replaced: no answer within" in caplog.text


@pytest.mark.parametrize("spare", [False, True])
async def test_a_changed_environment_gets_another_zygote(
    harness: ProcessHarness, environment: Path, spare: bool
) -> None:
    source = f"{FORKED}import json\nprint(forked, sys.prefix, hasattr(json, 'added'))"
    spec = inside(python(harness, source), environment)
    lines: list[str] = []
    async with harness.open() as backend:
        for text in ("", "import json; json.added = True\n"):
            (environment / "more.pth").write_text(text)
            await until(lambda: settled(environment / "more.pth"))
            instance = await backend.start(spec)
            with trio.fail_after(LIMIT_S):
                await instance.wait()
            lines += instance.tail()
            await instance.stop()
            if spare:  # which has read what the first one did
                await until(lambda: pids_of("spare"))
    prefix = f"{spec.package.path}/venv"
    assert lines == [f"True {prefix} False", f"True {prefix} True"]


async def test_what_changed_while_it_was_read_is_not_forked(
    harness: ProcessHarness, environment: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "runtimes.process")
    (environment / "zz.pth").write_text(
        f"import pathlib; pathlib.Path({str(environment / 'own.pth')!r}).touch()\n"
    )
    spec = inside(python(harness, f"{FORKED}print(forked)"), environment)
    assert await run(harness, spec) == [(("False",), "exit code 0")]
    assert "own.pth was changed a moment ago" in caplog.text


@pytest.mark.parametrize(
    ("pth", "reason"),
    [
        (
            "import _thread, time; _thread.start_new_thread(time.sleep, (9,))\n",
            "an import has started a thread",
        ),
        ("import builtins; builtins.kept = open('/etc/hostname')\n", "keeps /etc/hostname open"),
        ("import sys; sys.modules['shim'] = None\n", "No module named 'shim.main'"),
        ("import os; print('broken'); os._exit(1)\n", "its zygote ended: broken"),
        ("import sys; sys.executable = '/other'\n", "it is a program that runs /other"),
        ("import sys; sys.orig_argv = ['x']\n", "called with more than we gave: ['x']"),
    ],
)
async def test_an_environment_that_no_fork_survives_is_executed(
    harness: ProcessHarness,
    environment: Path,
    caplog: pytest.LogCaptureFixture,
    pth: str,
    reason: str,
) -> None:
    caplog.set_level(logging.INFO, "runtimes.process")
    (environment / "zz.pth").write_text(pth)
    async with harness.open() as backend:
        for _ in range(2):
            spec = inside(python(harness, "print('runs')"), environment)
            instance = await backend.start(spec)
            with trio.fail_after(LIMIT_S):
                await instance.wait()
            assert "runs" in instance.tail() or "broken" in instance.tail()
            await instance.stop()
        assert not zygote_pids()
    assert caplog.text.count(reason) == 2


async def test_an_interpreter_that_never_gets_ready_is_given_up(
    harness: ProcessHarness, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zygotes, "READY_LIMIT_S", 0.2)
    python_ = environment.parents[2] / "bin" / "python"
    python_.unlink()
    python_.write_text('#!/bin/sh\ncase "$1" in *zygote*) sleep 1000;; esac\necho own\n')
    python_.chmod(0o755)
    spec = inside(python(harness, ""), environment)
    assert await run(harness, spec) == [(("own",), "exit code 0")]
    assert not harness.left()


async def test_limits_that_cannot_be_set_fail_the_start(
    harness: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtimes.process.options import ProcessOptions

    async with harness.open() as backend:
        assert await forked_after(harness, backend)
        monkeypatch.setattr(ProcessOptions, "limits", {"nofile": -2})
        with pytest.raises(StartFailed, match=r"cannot set the limits {'nofile': -2}: Invalid"):
            await backend.start(python(harness, SERVES))
        monkeypatch.undo()
        assert await forked_after(harness, backend)
        assert not pids_of("chaincode")


async def test_a_fork_that_dies_at_the_gate_fails_its_start_alone(
    harness: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork = zygotes.Zygote.fork

    async def fork_and_kill(self: zygotes.Zygote, script: str, output: int) -> object:
        pid, gate = await fork(self, script, output)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not Path(f"/proc/{pid}").exists())
        return pid, gate

    async with harness.open() as backend:
        monkeypatch.setattr(zygotes.Zygote, "fork", fork_and_kill)
        with pytest.raises(StartFailed, match=r"cannot start a process \(adopt\): No such process"):
            await backend.start(python(harness, SERVES))
        monkeypatch.undo()
        assert await forked_after(harness, backend)


async def test_the_keeper_adopts_its_own_orphans_only(harness: ProcessHarness) -> None:
    from runtimes.process.link import Command, KeeperLink

    command = Command(argv=("sleep", "1000"), env={"TRIOPEER_INSTANCE": "x"}, cwd="/", limits={})
    async with KeeperLink() as link, trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        first = link.new_child("x")
        await link.spawn(first, command, output=sys.stderr.fileno())
        assert first.pid is not None
        for pid in (os.getpid(), first.pid):  # a stranger, and one that is taken
            with pytest.raises(StartFailed, match="No such process"):
                await link.adopt(link.new_child("y"), command, pid)
        await link.end(first, 0)
        nursery.cancel_scope.cancel()


async def test_a_start_that_is_cancelled_at_any_step_leaves_nothing(
    harness: ProcessHarness,
) -> None:
    step = 1
    while True:
        async with harness.open() as backend:
            if step % 2:  # with a zygote that is there, and with one that has yet to be made
                assert await forked_after(harness, backend)
            spec = python(harness, SERVES)
            if await cancelled_at_step(step, lambda: backend.start(spec)):  # noqa: B023 - used here
                break
            await until(lambda: not pids_of("chaincode"))
            await until(lambda: len(harness.directories()) == len(zygote_pids()))
            await until(lambda: len(pids_of("spare")) <= len(zygote_pids()))
        assert not harness.left()
        step += 1
    assert step > 10
    assert not harness.left()


async def test_many_at_once_come_from_one_zygote(harness: ProcessHarness) -> None:
    async with harness.open() as backend:

        async def start(number: int) -> None:
            spec = python(harness, SERVES)
            package = replace(spec.package, ccid=f"asset:{number}")
            await backend.start(replace(spec, package=package))

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(start, number)
        await until(lambda: len(harness.lines) == 8)
        assert {line for _, line in harness.lines} == {"True"}
        assert len(zygote_pids()) == 1
        assert len(pids_of("chaincode")) == 8
    assert not harness.left()


async def test_a_new_keeper_has_new_zygotes(harness: ProcessHarness) -> None:
    async with harness.open() as backend:
        instance = await backend.start(python(harness, PYTHON_BROOD))
        await until(lambda: len(harness.left()) == PYTHON_BROOD_SIZE + 2)  # zygote and spare
        await until(harness.is_up)
        assert harness.lines == [("asset:1.0", "up True")]
        (keeper,) = keepers()
        os.kill(keeper, signal.SIGKILL)  # which leaves the brood: it has to be swept by its mark
        with trio.fail_after(LIMIT_S):
            assert await instance.wait() == ExitStatus(signal=signal.SIGKILL)
            await instance.stop()
        await until(lambda: not harness.left())
        await backend.health()
        assert await forked_after(harness, backend)
    assert not harness.left()
    assert not harness.directories()
