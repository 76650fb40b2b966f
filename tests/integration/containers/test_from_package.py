"""Chaincodes of every language on official libraries, from a package to a committed event."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from peer.errors import PackageError
from peer.lifecycle.packages import pack
from tests.integration.containers.packages import Packages
from tests.integration.containers.site import CHANNEL, Site

LANGUAGES = [
    "python",
    pytest.param("node", marks=pytest.mark.node),
    pytest.param("golang", marks=pytest.mark.golang),
    pytest.param("legacy", marks=pytest.mark.golang),
]


@pytest.mark.parametrize("language", LANGUAGES)
async def test_from_package_to_event_and_state(
    site: Site, packages: Packages, language: str, builds: list[bool]
) -> None:
    for tls in (False, True):
        async with site.peer(tls=tls) as peer:
            installed = await peer.install(packages(language))
            name, value = installed.label, f"TLS {tls}"
            set_event = await peer.invoke(CHANNEL, name, ["event", "key", value])
            assert set_event.committed, set_event.message
            assert set_event.event is not None
            assert set_event.event.event_name == "key"
            assert set_event.event.payload == value.encode()
            assert (await peer.query(CHANNEL, name, ["get", "key"])).payload == value.encode()
            container = await site.inspect(installed.ccid)
            assert f"CORE_PEER_TLS_ENABLED={str(tls).lower()}" in container["Config"]["Env"]
            isolated = container["HostConfig"]["NetworkMode"] == "none"
            assert isolated is (language != "node")  # its library cannot dial a Unix socket
        assert site.left() == []
    assert builds == [True]  # once, with the network cut off


PROBE = """\
import os, socket, sys

print("the build sees", *os.listdir("/sys/class/net"), flush=True)
socket.create_connection(("{host}", {port}), timeout=10).close()
sys.exit("the build reached the test")
"""


@pytest.mark.node
async def test_a_build_that_should_need_no_network_has_none(
    site: Site, tmp_path: Path, builds: list[bool]
) -> None:
    """Of two packages whose builds do the same, that with npm's cache gets no further than lo."""
    refusals = {}
    with socket.create_server(("0.0.0.0", 0)) as server:
        for name in ("online", "offline"):
            source = tmp_path / name
            source.mkdir()
            manifest = {"name": name, "scripts": {"preinstall": "python3 probe.py"}}
            (source / "package.json").write_text(json.dumps(manifest))
            host, port = bridge_address(site), server.getsockname()[1]
            (source / "probe.py").write_text(PROBE.format(host=host, port=port))
            if name == "offline":
                (source / "npm-cache").mkdir()
                (source / "npm-cache" / "empty").touch()
            package = tmp_path / f"{name}.tar.gz"
            package.write_bytes(pack(source, "node", name))
            async with site.peer() as peer:
                with pytest.raises(PackageError) as caught:
                    await peer.install(package)
            refusals[name] = str(caught.value)
    assert builds == [False, True]
    assert "the build reached the test" in refusals["online"]
    assert "the build sees lo\n" in refusals["offline"]
    assert "Network is unreachable" in refusals["offline"]


def bridge_address(site: Site) -> str:
    """Return this machine's address on the network that builds get by default."""
    name = {"docker": "bridge", "podman": "podman"}[site.engine.name]
    status, network = site.engine.request("GET", f"/networks/{name}")
    assert status == 200
    return str(network["IPAM"]["Config"][0]["Gateway"])
