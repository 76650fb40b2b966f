"""What a chaincode finds in its container, and whose connection is whose."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from runtimes.api import Instance, InstanceSpec, Origin, RuntimeBackend, StartFailed, TcpOrigin
from tests.contract.containers import FILES, ContainerHarness
from tests.contract.harness import LIMIT_S, SERVES
from tests.contract.test_process_origin import origin_of

engines = pytest.mark.parametrize("harness", ["docker", "podman"], indirect=True)
docker_only = pytest.mark.parametrize("harness", ["docker"], indirect=True)

CONNECTS = """#!python
import os, socket, sys
address = sys.argv[1].partition("=")[2]
if {child} and os.fork():
    os.wait()
if address.startswith("unix://"):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address.removeprefix("unix://"))
else:
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)))
connection.recv(1)
"""


def configured(harness: ContainerHarness, **options: object) -> None:
    section = harness.options[harness.house.engine.name]
    section |= {key: value for key, value in options.items() if key != "hostConfig"}
    section["hostConfig"] |= options.get("hostConfig", {})


async def output_of(harness: ContainerHarness, spec: InstanceSpec) -> tuple[str, ...]:
    """Run a chaincode to its end and return what it said."""
    async with harness.open() as backend:
        instance = await backend.start(spec)
        with trio.fail_after(LIMIT_S):
            await instance.wait()
        return instance.tail()


LOOKS = """
exec 2>&1
grep -E '^(CapEff|CapBnd|NoNewPrivs|Uid)' /proc/self/status
cat /etc/hyperledger/fabric/client.key
stat -c %a /etc/hyperledger/fabric/client.key
echo x > /usr/x
echo x > /tmp/x && echo writable
ls /sys/class/net
echo "$1"
"""


@engines
async def test_a_container_is_hardened_by_default(harness: ContainerHarness) -> None:
    lines = await output_of(harness, replace(harness.spec(LOOKS), files=FILES))
    said = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert int(said["CapEff"], 16) == int(said["CapBnd"], 16) == 0
    assert said["NoNewPrivs"] == "1"
    assert not said["Uid"].startswith("0")
    assert {"secret", "644", "writable"} <= set(lines)
    assert any("Read-only file system" in line for line in lines)
    assert "eth0" not in lines
    assert lines[-1] == "unix:///run/peer/peer.sock"


@engines
async def test_the_engine_shows_the_hardening(harness: ContainerHarness) -> None:
    async with harness.open() as backend:
        await backend.start(harness.spec(SERVES))
        found = harness.inspect()
        host = found["HostConfig"]
        assert host["NetworkMode"] == "none"
        assert host["ReadonlyRootfs"] is True
        assert host["PidsLimit"] == 1024
        assert host["Memory"] == 2 << 30
        assert any(option.startswith("no-new-privileges") for option in host["SecurityOpt"])
        assert host["Privileged"] is False
        assert found["Config"]["Labels"]["io.triopeer.ccid"] == "asset:1.0"
        assert "io.triopeer.session" in found["Config"]["Labels"]


@engines
async def test_hardening_off_is_as_fabric_does(harness: ContainerHarness) -> None:
    configured(harness, hardening=False)
    lines = await output_of(harness, replace(harness.spec(LOOKS), files=FILES))
    said = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert int(said["CapBnd"], 16) != 0
    assert said["NoNewPrivs"] == "0"
    assert {"secret", "644", "writable"} <= set(lines)
    assert not any("Read-only file system" in line for line in lines)


@engines
async def test_what_is_configured_arrives(harness: ContainerHarness) -> None:
    host = {
        "PidsLimit": 77,
        "Memory": 100 << 20,
        "Ulimits": ["nofile=100:200", "nproc=1024"],
        "Tmpfs": {"/work": "size=1m,mode=1777"},
        "User": "1234:1234",
        "ExtraHosts": ["somewhere:10.1.2.3"],
    }
    configured(harness, hostConfig=host)
    script = "ulimit -n; ulimit -Hn; id -u; cat /etc/hosts; echo x > /work/x && echo writable"
    lines = await output_of(harness, harness.spec(script))
    assert lines[:3] == ("100", "200", "1234")
    assert lines[-1] == "writable"
    assert any(re.match(r"10\.1\.2\.3\s+somewhere", line) for line in lines)


@engines
async def test_a_grace_lets_a_chaincode_end_by_itself(harness: ContainerHarness) -> None:
    configured(harness, stopGrace="5s")
    async with harness.open() as backend:
        script = "trap 'echo bye; exit 4' TERM\necho up\nwhile :; do sleep 0.05; done"
        instance = await backend.start(harness.spec(script))
        with trio.fail_after(LIMIT_S):
            while not harness.lines:  # noqa: ASYNC110 - the container sets no Event
                await trio.sleep(0.01)
        await instance.stop()
        assert (await instance.wait()).code == 4
        assert instance.tail() == ("up", "bye")
        assert not harness.left()


@asynccontextmanager
async def connected(
    backend: RuntimeBackend, spec: InstanceSpec, listening: socket.socket
) -> AsyncIterator[tuple[Instance, Origin]]:
    """Start a chaincode that connects, and give it with the origin of its connection."""
    listening.listen()
    server = trio.socket.from_stdlib_socket(listening.dup())
    with server:
        instance = await backend.start(spec)
        with trio.fail_after(LIMIT_S):
            connection, _ = await server.accept()
        with connection:
            yield instance, origin_of(connection)


@engines
@pytest.mark.parametrize("child", [False, True], ids=["main", "child"])
async def test_only_its_own_instance_owns_a_unix_connection(
    harness: ContainerHarness, child: bool
) -> None:
    async with harness.open() as backend:
        other = await backend.start(harness.spec(SERVES, "other:1"))
        spec = harness.spec(CONNECTS.format(child=child))
        async with connected(backend, spec, harness.listening) as (instance, origin):
            assert await instance.owns(origin)
            assert not await other.owns(origin)
            await instance.stop()
            assert not await instance.owns(origin)


@engines
@pytest.mark.parametrize("mode", ["own network", "host", "bridge"])
async def test_only_its_own_instance_owns_a_tcp_connection(
    harness: ContainerHarness, mode: str
) -> None:
    if mode != "own network":
        configured(harness, hostConfig={"NetworkMode": mode})
    async with harness.open() as backend:
        with socket.socket() as listening:
            listening.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND
            listening.bind((await listen_host(backend), 0))
            host, port = listening.getsockname()
            spec = replace(harness.spec(CONNECTS.format(child=True)), peer_address=f"{host}:{port}")
            other = await backend.start(replace(spec, package=harness.spec(SERVES, "o:1").package))
            async with connected(backend, spec, listening) as (instance, origin):
                assert await instance.owns(origin)
                assert not await other.owns(origin)
                nowhere = TcpOrigin(remote=("127.0.0.1", 1), local=("127.0.0.1", 2))
                assert not await instance.owns(nowhere)
    assert not harness.house.networks()


async def listen_host(backend: RuntimeBackend) -> str:
    try:
        return await backend.listen_host()
    except StartFailed as exc:
        pytest.fail(str(exc))


@engines
async def test_no_network_and_no_socket_is_no_way(harness: ContainerHarness) -> None:
    configured(harness, hostConfig={"NetworkMode": "none"})
    async with harness.open() as backend:
        with pytest.raises(StartFailed, match="NetworkMode none"):
            await backend.listen_host()


@docker_only
async def test_the_own_network_is_internal(harness: ContainerHarness) -> None:
    async with harness.open() as backend:
        await listen_host(backend)
        (network,) = harness.house.networks()
        assert harness.house.call("GET", f"/networks/{network}")["Internal"] is True
