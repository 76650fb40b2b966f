"""Who gets in: the launched processes and nobody else, once, under their own name."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from peer.errors import InstanceExited, StreamTerminated
from peer.library import Peer
from tests.integration.peer.scene import (
    CHANNEL,
    HERE,
    Code,
    processes,
    soon,
    vanished,
    watched_peer,
)

WAITS_FOR_THE_TEST = """
    open("gate").read()  # a pipe: returns when the test has opened and closed it
    await wire.chaincode(answer)
"""
ANSWERS = """
    async def answer(stub, args):
        return f"{os.getpid()} {wire.ADDRESS}".encode()
"""


async def stranger(name: str, address: str) -> str:
    """Let a process of nobody's register; return the peer's answer."""
    command = [sys.executable, str(HERE / "stranger.py"), name, address]
    with trio.fail_after(10):
        done = await trio.run_process(command, capture_stdout=True)
    return done.stdout.decode().strip()


async def text(peer: Peer, name: str, *args: str) -> str:
    result = await peer.query(CHANNEL, name, args)
    assert (result.status, result.message) == (200, "")
    return result.payload.decode()


def address_of(label: str) -> str:
    """Return what the launched process was told to dial: anybody of this user can read that."""
    [command] = processes(label).values()
    return command.split()[-1]


@pytest.mark.parametrize("kind", [Code.python, Code.node], ids=["unix", "tcp"])
async def test_a_stranger_is_refused_and_the_launch_succeeds(
    code: Code, kind: Callable[[Code, str], Path]
) -> None:
    source = kind(code, ANSWERS + WAITS_FOR_THE_TEST)
    os.mkfifo(source / "gate")
    async with watched_peer() as (peer, watch):
        ccid = (await peer.install(source)).ccid
        answers: list[str] = []

        async def call() -> None:
            answers.append(await text(peer, source.name, "address"))

        async with trio.open_nursery() as callers:
            callers.start_soon(call)
            await watch.stage(source.name, "connect")
            told = {command.split()[-1] for command in processes(source.name).values()}
            [address] = told
            assert address.startswith("unix:///" if kind is Code.python else "127.0.0.1:")
            for name in (ccid, "another:1", ""):
                refusal = await stranger(name, address)
                assert refusal.startswith("PERMISSION_DENIED: "), refusal
                assert refusal.endswith(f"does not belong to the chaincode launched as {ccid}")
            assert answers == []
            await trio.to_thread.run_sync((source / "gate").write_text, "go")
        [pid_and_address] = answers
        pid, used = pid_and_address.split()
        assert int(pid) in processes(source.name)
        assert used == address
        # once it is READY nobody can even connect
        assert (await stranger(ccid, address)).startswith("closed: [Errno 111] ")
        assert await text(peer, source.name, "address") == pid_and_address


async def test_a_child_of_the_launched_process_may_register(code: Code) -> None:
    """npm and shell wrappers start the real chaincode as a child or grandchild."""
    source = code.node(ANSWERS + "    await wire.chaincode(answer)")
    wrapper = (source / "start.sh").read_text()
    (source / "start.sh").write_text(f"{wrapper.rstrip()} & wait\n")
    async with watched_peer() as (peer, _):
        await peer.install(source)
        pid, _ = (await text(peer, source.name, "address")).split()
        running = processes(source.name)
        assert len(running) == 2  # the shell and the chaincode
        assert "start.sh" not in running[int(pid)]


async def test_a_second_register_on_the_stream_ends_it(code: Code) -> None:
    main = """
        async def answer(stub, args):
            await stub.call.send(type=T.REGISTER, payload=wire.ChaincodeId(name=CCID).encode())
            await asyncio.Event().wait()

        await wire.chaincode(answer)
    """
    source = code.python(main)
    async with watched_peer() as (peer, _):
        package = await peer.install(source)
        with soon(), pytest.raises(StreamTerminated) as caught:
            await peer.query(CHANNEL, source.name, ["again"])
        assert "cannot handle message (REGISTER) while in ready state" in str(caught.value)
        await vanished(package.label)


@pytest.mark.parametrize("shares", [True, False], ids=["same connection", "another connection"])
async def test_a_second_stream_under_the_name_is_refused(code: Code, shares: bool) -> None:
    """The first one stays as it is."""
    connect = "call.again()" if shares else "dial()"
    main = f"""
        async def answer(stub, args):
            return refused.encode()

        async with dial() as call, {connect} as second:
            await call.register()
            try:
                await second.register()
            except wire.GRPCError as exc:
                refused = f"{{exc.status.name}}: {{exc.message}}"
            await wire.answer_calls(call, answer)
    """
    source = code.python(main)
    async with watched_peer() as (peer, _):
        package = await peer.install(source)
        expected = f"ALREADY_EXISTS: duplicate chaincodeID: {package.ccid}"
        with soon():
            assert await text(peer, source.name, "how was the second one?") == expected
        assert await text(peer, source.name, "and the first?") == expected


async def test_two_launches_at_once_do_not_meet(code: Code) -> None:
    """A chaincode that registers at the address of another one is a stranger there."""
    victim = code.python(ANSWERS + WAITS_FOR_THE_TEST, "victim")
    os.mkfifo(victim / "gate")
    async with watched_peer() as (peer, watch):
        ccid = (await peer.install(victim)).ccid
        answers: list[str] = []

        async def call() -> None:
            answers.append(await text(peer, victim.name, "address"))

        async with trio.open_nursery() as callers:
            callers.start_soon(call)
            await watch.stage(victim.name, "connect")
            main = f"""
                print(await wire.status_of("{address_of(victim.name)}", "{ccid}"))
                sys.exit(9)
            """
            intruder = code.python(main, "intruder")
            await peer.install(intruder)
            with pytest.raises(InstanceExited) as caught:
                await peer.query(CHANNEL, intruder.name, ["go"])
            assert caught.value.evidence is not None
            [line] = caught.value.evidence.output
            assert line.startswith("PERMISSION_DENIED: ")
            await trio.to_thread.run_sync((victim / "gate").write_text, "go")
        assert len(answers) == 1


async def test_two_peers_in_one_process_keep_apart(code: Code) -> None:
    """The very same package on both: each runs its own, and stopping one spares the other."""
    source = code.book()
    async with watched_peer() as (first, _):
        async with watched_peer() as (second, _):
            packages = [await peer.install(source) for peer in (first, second)]
            assert packages[0].ccid == packages[1].ccid
            pids = [await text(peer, source.name, "pid") for peer in (first, second)]
            assert sorted(processes(source.name)) == sorted(map(int, pids))
            await first.invoke(CHANNEL, source.name, ["put", "key", "first"])
            assert await text(second, source.name, "get", "key") == ""
        assert list(processes(source.name)) == [int(pids[0])]
        assert await text(first, source.name, "get", "key") == "first"
        assert await text(first, source.name, "pid") == pids[0]


@pytest.fixture
def tls() -> Callable[[], object]:
    return partial(watched_peer, tls_enabled=True)


@pytest.mark.parametrize("kind", [Code.python, Code.node], ids=["unix", "tcp"])
async def test_tls(
    code: Code, tls: Callable[[], object], kind: Callable[[Code, str], Path]
) -> None:
    source = kind(code, ANSWERS + "    await wire.chaincode(answer)")
    async with tls() as (peer, _):
        await peer.install(source)
        _, used = (await text(peer, source.name, "address")).split()
        assert used.startswith("unix:///" if kind is Code.python else "127.0.0.1:")


DIALS_WITH = """
    def tls():
        {how}

    async with dial(tls=tls) as call:
        await call.register()
        await asyncio.Event().wait()
"""


def self_signed(certificate: Path, key: Path) -> None:
    """Write a certificate that no authority of the peer has issued."""
    subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=me "
        f"-keyout {key} -out {certificate}".split(),
        check=True,
        capture_output=True,
    )


@pytest.mark.parametrize(
    "how",
    [
        'return wire.client_tls("own.crt", "own.key")',
        "return wire.server_only_tls()",
        "return None",
    ],
    ids=["self-signed", "no certificate", "no TLS"],
)
async def test_tls_without_a_certificate_of_the_peer(
    code: Code, tls: Callable[[], object], how: str
) -> None:
    source = code.python(DIALS_WITH.format(how=how))
    self_signed(source / "own.crt", source / "own.key")
    async with tls() as (peer, _):
        await peer.install(source)
        with soon(), pytest.raises(InstanceExited) as caught:
            await peer.query(CHANNEL, source.name, ["go"])
    assert caught.value.evidence is not None
    assert caught.value.evidence.exit == "exit code 1"


async def test_tls_with_the_certificate_of_another_chaincode(
    code: Code, tls: Callable[[], object]
) -> None:
    good = code.book("good")
    thief = code.python(
        DIALS_WITH.format(how='return wire.client_tls("stolen.crt", "stolen.key")'), "thief"
    )
    async with tls() as (peer, _):
        await peer.install(good)
        environ = Path(f"/proc/{await text(peer, good.name, 'pid')}/environ").read_bytes()
        variables = dict(entry.split(b"=", 1) for entry in environ.split(b"\0") if entry)
        for variable, stolen in (
            (b"CORE_TLS_CLIENT_CERT_FILE", "stolen.crt"),
            (b"CORE_TLS_CLIENT_KEY_FILE", "stolen.key"),
        ):
            (thief / stolen).write_bytes(Path(os.fsdecode(variables[variable])).read_bytes())
        await peer.install(thief)
        with soon(), pytest.raises(InstanceExited) as caught:
            await peer.query(CHANNEL, thief.name, ["go"])
        assert caught.value.evidence is not None
        refusal = caught.value.evidence.output[-1]
        assert refusal.startswith("refused: PERMISSION_DENIED: ")
        assert refusal.endswith("belongs to a different chaincode")
        assert await text(peer, good.name, "get", "key") == ""
