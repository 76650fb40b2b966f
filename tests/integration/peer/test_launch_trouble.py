"""Chaincodes that never become READY: each gives an error of its own, soon, with evidence."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from peer import Peer
from peer.errors import (
    BuildError,
    Evidence,
    InstanceExited,
    LaunchError,
    PackageError,
    RegistrationRefused,
    StartError,
    StartupTimeout,
    StreamLost,
)
from tests.integration.peer.packing import archive, package
from tests.integration.peer.scene import CHANNEL, Code, processes, soon, watched_peer

STARTUP_S = 1.0
"""The start-up limit of the tests that are about it."""


async def failure(peer: Peer, source: Path, kind: type[LaunchError]) -> LaunchError:
    """Install, call, and return the error of the launch; nothing of it may run any more."""
    installed = await peer.install(source)
    with soon(), pytest.raises(kind) as caught:
        await peer.query(CHANNEL, installed.label, ["anything"])
    assert caught.type is kind
    assert caught.value.ccid == installed.ccid
    assert processes(installed.label) == {}
    return caught.value


def evidence(error: LaunchError) -> Evidence:
    assert error.evidence is not None
    assert str(error.evidence) in str(error)
    return error.evidence


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        ("golang", "go build"),
        ("node", "no src/package.json found"),
        ("java", r"illegal file detected in payload: 'src/readme\.txt'"),
        ("python", r"chaincode\.py"),
        ("cobol", "unknown chaincodeType: cobol"),
    ],
)
async def test_a_package_without_anything_to_start(code: Code, kind: str, missing: str) -> None:
    source = code.files({}) / "package.tar.gz"
    source.write_bytes(package(archive({"src/readme.txt": b""}), label=code.label, kind=kind))
    async with watched_peer() as (peer, _):
        with pytest.raises(PackageError, match=missing):
            await peer.install(source)


async def test_code_that_went_away_after_its_installation(code: Code) -> None:
    source = code.book()
    async with watched_peer() as (peer, _):
        package = await peer.install(source)
        (source / "chaincode.py").unlink()
        with soon(), pytest.raises(BuildError, match=r"neither chaincode\.py") as caught:
            await peer.query(CHANNEL, package.label, ["anything"])
    found = evidence(caught.value)
    assert (found.stage, found.address, found.exit, found.output) == ("build", "", "", ())


async def test_a_directory_without_anything_to_start(code: Code) -> None:
    async with watched_peer() as (peer, _):
        with pytest.raises(PackageError, match=r"holds none of .*chaincode\.py"):
            await peer.install(code.files({"readme.txt": ""}))


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("#!/no/such/interpreter\n", "No such file or directory"),
        ("neither script nor program", "Exec format error"),
    ],
)
async def test_a_command_that_cannot_be_executed(code: Code, content: str, cause: str) -> None:
    source = code.files({"chaincode": content}, mode=0o755)
    async with watched_peer() as (peer, _):
        error = await failure(peer, source, StartError)
    assert f"cannot execute {source}/chaincode: {cause}" in error.reason
    found = evidence(error)
    assert found.stage == "start"
    assert found.address.startswith("unix:///")
    assert (found.exit, found.output) == ("", ())


async def test_a_program_without_the_right_to_run_is_started_from_a_copy(code: Code) -> None:
    source = code.files({"chaincode": "#!/bin/sh\necho started; exit 3\n"}, mode=0o644)
    async with watched_peer() as (peer, _):
        error = await failure(peer, source, InstanceExited)
    found = evidence(error)
    assert (found.exit, found.output) == ("exit code 3", ("started",))
    assert (source / "chaincode").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("main", "status", "last_line"),
    [
        ("print('half a word", "exit code 1", "SyntaxError: unterminated string literal"),
        ("print('cannot go on'); sys.exit(7)", "exit code 7", "cannot go on"),
        ("os.close(1); os.close(2); sys.exit(0)", "exit code 0", None),
        ("print('so long'); os.kill(os.getpid(), 9)", "killed by signal 9", "so long"),
        ("import nothing_of_that_name", "exit code 1", "ModuleNotFoundError: No module named"),
    ],
)
async def test_a_chaincode_that_ends_at_once(
    code: Code, main: str, status: str, last_line: str | None
) -> None:
    async with watched_peer() as (peer, _):
        error = await failure(peer, code.python(main), InstanceExited)
    found = evidence(error)
    assert (found.stage, found.exit) == ("connect", status)
    assert status in error.reason
    assert found.address.startswith("unix:///")
    if last_line is None:
        assert found.output == ()
    else:
        assert found.output[-1].startswith(last_line)


async def test_evidence_holds_the_last_lines_in_order(code: Code) -> None:
    main = """
        for number in range(1000):
            print("line", number)
        print("error line", file=sys.stderr)
        sys.exit(3)
    """
    async with watched_peer() as (peer, _):
        found = evidence(await failure(peer, code.python(main), InstanceExited))
    assert found.output == (*(f"line {number}" for number in range(901, 1000)), "error line")


@pytest.mark.parametrize(
    ("main", "stage"),
    [
        ("await asyncio.Event().wait()", "connect"),
        ("async with dial(): await asyncio.Event().wait()", "register"),
        (
            """
            async with dial() as call:
                await call.send(type=T.KEEPALIVE)
                await asyncio.Event().wait()
            """,
            "register",
        ),
        (
            """
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            await asyncio.Event().wait()
            """,
            "connect",
        ),
        (
            """
            _, writer = await asyncio.open_unix_connection(wire.ADDRESS.removeprefix("unix://"))
            writer.write(b"GET / HTTP/1.1\\r\\n\\r\\n" + bytes(100_000))
            await asyncio.Event().wait()
            """,
            "connect",
        ),
    ],
    ids=["silent", "only connects", "only keepalives", "ignores SIGTERM", "no HTTP/2"],
)
async def test_a_chaincode_that_never_registers(code: Code, main: str, stage: str) -> None:
    source = code.python("print('here I am', flush=True)\n" + textwrap.dedent(main))
    async with watched_peer(startup_s=STARTUP_S) as (peer, _):
        error = await failure(peer, source, StartupTimeout)
    assert f"not READY within {STARTUP_S:g} s (chaincode.startuptimeout)" in error.reason
    found = evidence(error)
    assert found.elapsed_s == pytest.approx(STARTUP_S, abs=0.5)
    assert (found.stage, found.exit, found.output) == (stage, "", ("here I am",))


async def test_a_wrong_name(code: Code) -> None:
    main = """
        async with dial() as call:
            await call.register("somebody-else:1")
            await asyncio.Event().wait()
    """
    async with watched_peer() as (peer, _):
        error = await failure(peer, code.python(main), RegistrationRefused)
    assert error.reason == (f"it registered as somebody-else:1, but was launched as {error.ccid}")
    assert evidence(error).stage == "register"


@pytest.mark.parametrize(
    ("main", "reason"),
    [
        ("pass", "the chaincode closed it"),
        ("await call.send_bytes(b'\\xff' * 100)", "not a ChaincodeMessage"),
        ("await call.send_bytes(b'')", "cannot handle message (UNDEFINED) while in created state"),
        ("await call.send(type=T.REGISTER)", "chaincodeID name is empty"),
        ("await call.send(type=T.REGISTER, payload=b'\\xff')", "REGISTER without ChaincodeID"),
        ("await call.send(type=T.GET_STATE, txid='t')", "cannot handle message (GET_STATE)"),
        ("await call.send(type=4711, txid='t')", "cannot handle message (4711)"),
        ("await call.send_bytes(bytes(2_000_000))", "larger than max (2000000 vs. 1000000)"),
    ],
    ids=["closes", "garbage", "empty", "no name", "no id", "request", "unknown", "oversized"],
)
async def test_a_stream_that_ends_before_ready(code: Code, main: str, reason: str) -> None:
    """The process lives on, so it is the stream that tells."""
    main = f"""
        try:
            async with dial() as call:
                {main}
                await call.stream.end()
                await call.receive()
        except Exception as exc:
            print(exc, flush=True)
        await asyncio.Event().wait()
    """
    async with watched_peer(max_recv_msg_size=1_000_000) as (peer, _):
        error = await failure(peer, code.python(main), StreamLost)
    assert error.reason.startswith("its stream ended before READY: ")
    assert reason in error.reason
    found = evidence(error)
    assert (found.stage, found.exit) == ("register", "")
    if "closed" not in reason:
        assert reason in found.output[-1]  # the chaincode was told as well


async def test_a_process_that_dies_with_its_stream_is_reported_by_its_exit(code: Code) -> None:
    main = """
        async with dial() as call:
            print("about to fall", flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
    """
    async with watched_peer() as (peer, _):
        found = evidence(await failure(peer, code.python(main), InstanceExited))
    assert (found.exit, found.output) == ("killed by signal 11", ("about to fall",))


async def test_what_failed_can_be_launched_again(code: Code) -> None:
    source = code.book()
    async with watched_peer() as (peer, _):
        (source / "wire.py").rename(source.parent / "wire.py")
        await failure(peer, source, InstanceExited)
        (source.parent / "wire.py").rename(source / "wire.py")  # still the same package
        assert (await peer.query(CHANNEL, source.name, ["pid"])).status == 200
