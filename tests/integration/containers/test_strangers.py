"""Who gets in: the launched container and nobody else, under its own name and certificate."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import trio

from peer.errors import InstanceExited, LaunchError, RegistrationRefused
from peer.library import Peer
from tests.integration.containers.code import ImageCode
from tests.integration.containers.site import CHANNEL, Site
from tests.integration.peer.scene import HERE, Code

VICTIM = """
    async def answer(stub, args):
        return b"the victim"

    try:
        os.mkfifo("/tmp/gate")
    except FileExistsError:  # it is open already
        pass
    open("/tmp/gate").read()  # returns when the test has opened and closed it
    await wire.chaincode(answer)
"""
THIEF = """
    import json

    async def answer(stub, args):
        match [arg.decode() for arg in args]:
            case ["dial", address, name]:
                return (await wire.status_of(address, name)).encode()
            case ["dial without certificate", address, name]:
                return (await wire.status_of(address, name, wire.server_only_tls)).encode()
            case ["dial without TLS", address, name]:
                return (await wire.status_of(address, name, lambda: None)).encode()
            case ["secrets"]:
                files = [f"CORE_TLS_CLIENT_{part}_FILE" for part in ("CERT", "KEY")]
                files.append("CORE_PEER_TLS_ROOTCERT_FILE")
                return json.dumps({file: open(os.environ[file]).read() for file in files}).encode()

    await wire.chaincode(answer)
"""
WAYS = ("dial", "dial without certificate", "dial without TLS")


async def ask(peer: Peer, name: str, *args: str) -> str:
    with trio.fail_after(30):
        result = await peer.query(CHANNEL, name, args)
    assert (result.status, result.message) == (200, "")
    return result.payload.decode()


def assert_refused(answer: str, pattern: str) -> None:
    assert re.fullmatch(pattern, answer), answer


async def on_this_machine(
    directory: Path, name: str, address: str, environment: Mapping[str, str]
) -> str:
    """Let a process of this machine register; return the peer's answer."""
    command = [sys.executable, "stranger.py", name, address]
    env = {**os.environ, **environment}
    with trio.fail_after(30):
        done = await trio.run_process(command, capture_stdout=True, cwd=directory, env=env)
    return done.stdout.decode().strip()


@pytest.mark.parametrize(
    ("write", "tls"),
    [
        pytest.param(ImageCode.python, False, id="unix"),
        pytest.param(ImageCode.node, False, id="tcp", marks=pytest.mark.node),
        pytest.param(ImageCode.node, True, id="tls", marks=pytest.mark.node),
    ],
)
async def test_strangers_are_refused_and_the_launch_succeeds(
    site: Site, code: ImageCode, write: Callable[[Code, str, str], Path], tls: bool
) -> None:
    victim, thief = write(code, VICTIM, "victim"), write(code, THIEF, "thief")
    shutil.copy(HERE / "stranger.py", thief)
    async with site.peer(tls=tls) as peer:
        wanted = (await peer.install(victim)).ccid
        names = ((await peer.install(thief)).ccid, "", wanted)
        environment = {"CORE_PEER_TLS_ENABLED": str(tls).lower()}
        if tls:
            for variable, content in json.loads(await ask(peer, thief.name, "secrets")).items():
                (thief / variable).write_text(content)
                environment[variable] = variable
        answers: list[str] = []

        async def call() -> None:
            answers.append(await ask(peer, victim.name))

        async with trio.open_nursery() as callers:
            callers.start_soon(call)
            container = await site.inspect(wanted)
            inside = container["Config"]["Cmd"][-1].split()[-1]
            sockets = [mount["Source"] for mount in container["Mounts"] if "Source" in mount]
            [socket] = [path for path in sockets if path.endswith(".sock")] or [""]
            address = f"unix://{socket}" if socket else inside
            refusal = f"PERMISSION_DENIED: .* does not belong to the chaincode launched as {wanted}"
            for name in names:
                # a process of this machine, with the certificate of another launch
                assert_refused(await on_this_machine(thief, name, address, environment), refusal)
                # another chaincode, with its own certificate
                for way in WAYS if tls else WAYS[:1]:
                    answer = await ask(peer, thief.name, way, address, name)
                    if socket:
                        assert answer.startswith("closed: "), "it is not even there"
                    elif way == "dial":
                        assert_refused(answer, refusal)
                    else:
                        assert answer.startswith("closed"), answer
            if socket:  # a container that somebody has mounted the socket into
                answer = await site.run(
                    site.engine.images["python"],
                    "python3",
                    "stranger.py",
                    wanted,
                    "unix:///run/peer.sock",
                    environment=environment,
                    directory="/code",
                    mounts={thief: "/code", Path(socket): "/run/peer.sock"},
                )
                assert_refused(answer, refusal)
            assert answers == []
            await site.execute(container["Id"], "/bin/sh", "-c", "echo go > /tmp/gate")
        assert answers == ["the victim"]
        # once it is READY nobody can even connect
        answer = await on_this_machine(thief, wanted, address, environment)
        assert answer.startswith("closed: [Errno 111] ")


WRONG = """
    how = CCID.partition(":")[0].rpartition("-")[2]

    def tls():
        match how:
            case "stolen":
                return wire.client_tls("stolen.crt", "stolen.key")
            case "none":
                return wire.server_only_tls()
            case "name":
                return wire.client_tls()

    async with dial(tls=tls) as call:
        await call.register("another:1" if how == "name" else CCID)
        await asyncio.Event().wait()
"""


@pytest.mark.node
async def test_another_name_fails_the_launch(site: Site, code: ImageCode) -> None:
    source = code.node(WRONG, "-name")
    async with site.peer() as peer:
        ccid = (await peer.install(source)).ccid
        with pytest.raises(RegistrationRefused) as caught:
            await ask(peer, source.name)
    assert f"it registered as another:1, but was launched as {ccid}" in str(caught.value)


async def test_tls_with_another_certificate_or_name_fails_the_launch(
    site: Site, code: ImageCode
) -> None:
    """Each time it is the launched container itself that tries."""
    thief, source = code.python(THIEF, "thief"), code.python(WRONG, "wrong")
    failures: dict[str, LaunchError] = {}
    async with site.peer(tls=True) as peer:
        await peer.install(thief)
        secrets = json.loads(await ask(peer, thief.name, "secrets"))
        (source / "stolen.crt").write_text(secrets["CORE_TLS_CLIENT_CERT_FILE"])
        (source / "stolen.key").write_text(secrets["CORE_TLS_CLIENT_KEY_FILE"])
        for how in ("stolen", "none", "name"):
            name = f"{source.name}-{how}"
            await peer.install(source, name=name)
            with pytest.raises(LaunchError) as caught:
                await ask(peer, name)
            failures[how] = caught.value
        assert json.loads(await ask(peer, thief.name, "secrets")) == secrets
    assert isinstance(failures["name"], RegistrationRefused)
    last = {}
    for how in ("stolen", "none"):
        assert isinstance(failures[how], InstanceExited)
        evidence = failures[how].evidence
        assert evidence is not None
        last[how] = evidence.output[-1]
    assert re.fullmatch(
        "refused: PERMISSION_DENIED: .* belongs to a different chaincode", last["stolen"]
    )
    assert not last["none"].startswith("refused: "), "it got further than TLS"
