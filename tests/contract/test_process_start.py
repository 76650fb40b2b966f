"""What a chaincode process finds when it starts, and what a start that fails says."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from runtimes.api import (
    BuildFailed,
    ChaincodePackage,
    ExitStatus,
    InstanceSpec,
    OptionRejected,
    RuntimeUnavailable,
    StartFailed,
)
from runtimes.output import BURST_S, LINES_PER_S, TAIL_LINES
from runtimes.process import link
from runtimes.process.link import Command, KeeperLink
from tests.contract.harness import LIMIT_S, SERVES, ProcessHarness, keepers, until

KEY = "/etc/hyperledger/fabric/client.key"
CERTIFICATE = "/etc/hyperledger/fabric/client.crt"


async def output_of(harness: ProcessHarness, spec: InstanceSpec) -> tuple[str, ...]:
    """Run a chaincode to its end and return what it said."""
    async with harness.open() as backend:
        instance = await backend.start(spec)
        with trio.fail_after(LIMIT_S):
            await instance.wait()
        return instance.tail()


async def test_the_environment_is_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_PEER", "x")
    monkeypatch.setenv("WANTED", "yes")
    harness = ProcessHarness(tmp_path, {"propagateEnvironment": ["WANTED", "NOT_THERE"]})
    lines = await output_of(harness, harness.spec("exec env"))
    environment = dict(line.split("=", 1) for line in lines)
    del environment["PWD"]  # from the shell
    assert environment.keys() == {
        *("CONTRACT_MARK", "HOME", "LANG", "PATH", "PYTHONUNBUFFERED", "TMPDIR"),
        *("TRIOPEER_INSTANCE", "WANTED"),
    }
    assert environment["WANTED"] == "yes"
    assert environment["HOME"].startswith(str(harness.state_dir))


async def test_files_are_private_and_go_with_the_instance(harness: ProcessHarness) -> None:
    spec = harness.spec('cat "$KEY" "$CERT"; stat -c %a "$KEY" "$HOME" "$TMPDIR/.."; echo "$KEY"')
    spec = replace(
        spec,
        env={**spec.env, "KEY": KEY, "CERT": CERTIFICATE},
        files={KEY: b"secret\n", CERTIFICATE: b"public\n"},
    )
    async with harness.open() as backend:
        instance = await backend.start(spec)
        await instance.wait()
        *said, path = instance.tail()
        assert said == ["secret", "public", "600", "700", "700"]
        assert path.startswith(str(harness.state_dir))
        await instance.stop()
        assert not harness.directories()


async def test_limits_and_privileges_are_set(tmp_path: Path) -> None:
    harness = ProcessHarness(tmp_path, {"openFiles": 100, "memory": 1 << 30, "processes": 5000})
    script = (
        "cat /proc/self/limits; grep NoNewPrivs /proc/self/status; echo fds $(ls /proc/self/fd)"
    )
    lines = await output_of(harness, harness.spec(script))
    limits = {line[:25].strip(): line[25:].split()[:2] for line in lines if "Max" in line}
    assert limits["Max open files"] == ["100", "100"]
    assert limits["Max address space"] == [str(1 << 30)] * 2
    assert limits["Max processes"] == ["5000", "5000"]
    assert limits["Max core file size"] == ["0", "0"]
    assert "NoNewPrivs:\t1" in lines
    assert lines[-1] == "fds 0 1 2 3"  # 3 is the directory that ls reads


async def test_signals_are_as_a_program_expects_them(harness: ProcessHarness) -> None:
    former = signal.signal(signal.SIGQUIT, signal.SIG_IGN)  # as in the background of a shell
    try:
        lines = await output_of(harness, harness.spec("grep -E 'Sig(Ign|Blk)' /proc/self/status"))
    finally:
        signal.signal(signal.SIGQUIT, former)
    settable = sum(1 << (signum - 1) for signum in signal.valid_signals())  # not glibc's own two
    assert [int(line.split()[1], 16) & settable for line in lines] == [0, 0]


async def test_the_directory_is_the_package(harness: ProcessHarness) -> None:
    spec = harness.spec("pwd; echo $1")
    assert await output_of(harness, spec) == (
        str(spec.package.path),
        "-peer.address=127.0.0.1:7052",
    )


async def test_a_flood_of_output_is_paced_and_bounded(harness: ProcessHarness) -> None:
    async with harness.open() as backend:
        instance = await backend.start(harness.spec("exec yes"))
        before = trio.current_time()
        await until(lambda: len(harness.lines) > LINES_PER_S / 5)
        count, elapsed = len(harness.lines), trio.current_time() - before
        assert count <= (elapsed + BURST_S) * LINES_PER_S + 2
        assert len(instance.tail()) == TAIL_LINES
        with trio.fail_after(LIMIT_S):
            await instance.stop()
        assert not harness.left()


async def test_the_last_words_after_a_flood_are_kept(harness: ProcessHarness) -> None:
    script = "i=0; while [ $i -lt 9000 ]; do echo $i; i=$((i+1)); done; echo the reason; exit 1"
    assert (await output_of(harness, harness.spec(script)))[-2:] == ("8999", "the reason")


# chaincode of each type


def package(directory: Path, kind: str, files: Mapping[str, str]) -> ChaincodePackage:
    """Return a package with these files, programs executable."""
    path = directory / "package"
    path.mkdir()
    for name, text in files.items():
        (path / name).write_text(text)
        (path / name).chmod(0o755)
    return ChaincodePackage(ccid="asset:1.0", type=kind, path=path)


def spec_of(harness: ProcessHarness, kind: str, files: Mapping[str, str]) -> InstanceSpec:
    return replace(harness.spec(SERVES), package=package(harness.directory, kind, files))


async def test_python_chaincode_finds_the_library(harness: ProcessHarness) -> None:
    text = "import shim, sys\nprint(shim.__name__, *sys.argv)"
    assert await output_of(harness, spec_of(harness, "python", {"chaincode.py": text})) == (
        "shim chaincode.py -peer.address 127.0.0.1:7052",
    )


async def test_python_chaincode_with_a_mistake_says_where(harness: ProcessHarness) -> None:
    async with harness.open() as backend:
        instance = await backend.start(spec_of(harness, "python", {"main.py": "def broken(:\n"}))
        assert await instance.wait() == ExitStatus(code=1)
        assert "SyntaxError" in instance.tail()[-1]
        assert any('main.py", line 1' in line for line in instance.tail())


async def test_a_virtual_environment_in_the_package_is_used(harness: ProcessHarness) -> None:
    spec = spec_of(harness, "python", {"chaincode.py": ""})
    program = spec.package.path / "venv" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho own $*")
    program.chmod(0o755)
    assert await output_of(harness, spec) == ("own chaincode.py -peer.address 127.0.0.1:7052",)


async def test_node_chaincode_may_bring_a_start_script(harness: ProcessHarness) -> None:
    files = {"start.sh": "#!/bin/sh\necho started $*"}
    assert await output_of(harness, spec_of(harness, "node", files)) == (
        "started --peer.address 127.0.0.1:7052",
    )


async def test_node_chaincode_is_started_by_npm(
    harness: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(harness, "node", {"package.json": "{}", "npm": "#!/bin/sh\necho npm $*"})
    monkeypatch.setenv("PATH", str(spec.package.path), prepend=os.pathsep)
    assert await output_of(harness, spec) == ("npm start -- --peer.address 127.0.0.1:7052",)


async def test_java_chaincode_is_started_from_its_jar(
    harness: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(harness, "java", {"chaincode.jar": "", "java": "#!/bin/sh\necho java $*"})
    monkeypatch.setenv("PATH", str(spec.package.path), prepend=os.pathsep)
    assert await output_of(harness, spec) == (
        "java -jar chaincode.jar --peerAddress 127.0.0.1:7052",
    )


# refusals


@pytest.mark.parametrize(
    ("kind", "files", "text"),
    [
        ("golang", {}, "go build"),
        ("node", {}, "package.json"),
        ("java", {}, "chaincode.jar"),
        ("python", {"other.py": ""}, "chaincode.py"),
        ("cobol", {}, "unknown chaincodeType: cobol"),
    ],
)
async def test_a_package_without_an_entry_is_refused(
    harness: ProcessHarness, kind: str, files: Mapping[str, str], text: str
) -> None:
    spec = spec_of(harness, kind, files)
    async with harness.open() as backend:
        with pytest.raises(BuildFailed, match=text):
            await backend.build(spec.package)
        with pytest.raises(StartFailed, match=text):
            await backend.start(spec)
        assert not harness.directories()


async def test_a_program_that_cannot_be_executed_is_named(harness: ProcessHarness) -> None:
    async with harness.open() as backend:
        spec = harness.spec(SERVES)
        program = spec.package.path / "chaincode"
        program.chmod(0o644)
        with pytest.raises(StartFailed, match=f"cannot execute {program}: Permission denied"):
            await backend.start(spec)
        with pytest.raises(StartFailed, match=f"cannot execute {program}: No such file"):
            await backend.start(harness_with_interpreter(spec, "/no/such/interpreter"))
        assert not harness.directories()
        await backend.start(harness.spec(SERVES))


def harness_with_interpreter(spec: InstanceSpec, interpreter: str) -> InstanceSpec:
    program = spec.package.path / "chaincode"
    program.write_text(f"#!{interpreter}\n")
    program.chmod(0o755)
    return spec


async def test_a_program_that_is_not_installed_is_named(
    harness: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    async with harness.open() as backend:
        with pytest.raises(StartFailed, match="cannot execute java in /nowhere: No such file"):
            await backend.start(spec_of(harness, "java", {"chaincode.jar": ""}))


async def test_a_full_disk_fails_the_start(
    harness: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space() -> tuple[int, int]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with harness.open() as backend:
        monkeypatch.setattr(os, "pipe", no_space)
        with pytest.raises(StartFailed, match="No space left"):
            await backend.start(harness.spec(SERVES))
        assert not harness.directories()


async def test_mistakes_in_the_options_are_refused(tmp_path: Path) -> None:
    harness = ProcessHarness(tmp_path, {"stopGrase": 1})
    with pytest.raises(OptionRejected, match="did you mean stopGrace"):
        async with harness.open():
            pass
    assert not keepers()


# the keeper, asked directly


def command(*argv: str, cwd: str = "/", **limits: int) -> Command:
    return Command(argv=argv, env={"TRIOPEER_INSTANCE": "x"}, cwd=cwd, limits=limits)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (command("true", cwd="/no/such"), "cannot enter /no/such: No such file or directory"),
        (command("true", nofile=-2), "cannot set the limits {'nofile': -2}: Invalid argument"),
        (command("true", colour=1), "cannot set the limits .*: Invalid argument"),
        (command("/bin/true", "nul\0"), "cannot execute /bin/true: Invalid argument"),
        (command("true", "x" * 2_000_000), "more than a packet can"),
    ],
)
async def test_the_keeper_says_what_failed(request_: Command, text: str) -> None:
    async with KeeperLink() as keeper, trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        child = keeper.new_child("x")
        with pytest.raises(StartFailed, match=text):
            await keeper.spawn(child, request_, output=sys.stderr.fileno())
        await keeper.end(child, 0)
        await keeper.ping()
        nursery.cancel_scope.cancel()


async def test_a_keeper_that_cannot_be_executed_is_unavailable(
    harness: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "KEEPER_COMMAND", ("/no/such/python",))
    with pytest.raises(RuntimeUnavailable, match="cannot execute /no/such/python"):
        async with harness.open():
            pass


async def test_a_keeper_that_ends_at_once_is_unavailable(
    harness: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "KEEPER_COMMAND", (sys.executable, "-c", ""))
    async with harness.open() as backend:
        with pytest.raises(RuntimeUnavailable, match="keeper process died"):
            await backend.start(harness.spec(SERVES))
