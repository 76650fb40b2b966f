"""What a chaincode is kept from by default: the engine's word for it, and the chaincode's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peer.library import Peer
from tests.integration.containers.code import ImageCode
from tests.integration.containers.site import CHANNEL, Site
from tests.integration.peer.scene import Code

LOOKS_AROUND = """
    import json, socket

    def refused(action, *arguments):
        try:
            action(*arguments)
        except OSError as exc:
            return exc.strerror or str(exc)
        return ""

    async def answer(stub, args):
        status = dict(line.split(":\\t", 1) for line in open("/proc/self/status"))
        seen = {
            "interfaces": sorted(os.listdir("/sys/class/net")),
            "capabilities": [int(status[key], 16) for key in ("CapEff", "CapPrm", "CapBnd")],
            "no new privileges": int(status["NoNewPrivs"]),
            "user": os.geteuid(),
            "write to /": refused(open, "/file", "w"),
            "write to /tmp": refused(open, "/tmp/file", "w"),
            "dial": refused(socket.create_connection, ("192.0.2.1", 9), 1.0),
        }
        return json.dumps(seen).encode()

    await wire.chaincode(answer)
"""


async def look_around(peer: Peer, name: str) -> Any:
    result = await peer.query(CHANNEL, name, ["look"])
    assert result.status == 200, result.message
    return json.loads(result.payload)


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(ImageCode.python, id="unix"),
        pytest.param(ImageCode.node, id="tcp", marks=pytest.mark.node),
    ],
)
async def test_a_default_launch_is_hardened(
    site: Site, code: ImageCode, write: Callable[[Code, str], Path]
) -> None:
    source = write(code, LOOKS_AROUND)
    async with site.peer() as peer:
        ccid = (await peer.install(source)).ccid
        seen = await look_around(peer, source.name)
        told = await site.inspect(ccid)
        networks = {
            name: await site.ask("GET", f"/networks/{name}") for name in site.house.networks()
        }
    interfaces, dialled = seen.pop("interfaces"), seen.pop("dial")
    assert seen == {
        "capabilities": [0, 0, 0],
        "no new privileges": 1,
        "user": 65534,
        "write to /": "Read-only file system",
        "write to /tmp": "",
    }
    host = told["HostConfig"]
    assert told["Config"]["User"] == "65534:65534"
    assert host["CapDrop"]
    assert not host["CapAdd"]
    assert not host["Privileged"]
    assert "no-new-privileges" in host["SecurityOpt"]
    assert host["ReadonlyRootfs"]
    assert host["Tmpfs"]["/tmp"].startswith("rw,exec,nosuid,nodev,size=256m,mode=1777")
    assert (host["PidsLimit"], host["Memory"]) == (1024, 2 << 30)
    assert dialled != ""
    if write is ImageCode.python:
        assert (interfaces, dialled) == (["lo"], "Network is unreachable")
        assert networks == {}
        assert host["NetworkMode"] == "none"
    else:
        [(name, network)] = networks.items()
        assert list(told["NetworkSettings"]["Networks"]) == [name]
        assert list(network["Containers"]) == [told["Id"]]
        assert network["Internal"] is (site.engine.name == "docker")
