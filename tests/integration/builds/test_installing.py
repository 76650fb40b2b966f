"""Installing at a real peer: what is kept, what is built when, and what is left of a failure."""

from __future__ import annotations

import json
import logging
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import trio

from fabric_protos.codec import encode
from peer.errors import PackageError
from tests.integration.builds.workshop import OURS, peer_at, written
from tests.integration.peer.scene import CHANNEL, processes
from tests.unit.lifecycle.archives import files, package
from tests.unit.lifecycle.test_packages import GOOD_INDEX, INDEX, signed, spec


def left_of(data: Path) -> list[str]:
    """Return every file and directory that installing makes."""
    places = ("lifecycle/chaincodes", "lifecycle/builds", "chaincodes", "externalbuilder/builds")
    return [str(path) for place in places for path in (data / place).glob("*")]


async def test_installed_packages_survive_a_restart(tmp_path: Path) -> None:
    source = written(tmp_path / "p", package(files({"src/chaincode.py": OURS}), label="ours"))
    data = tmp_path / "data"
    async with peer_at(data) as peer:
        ccid = (await peer.install(source)).ccid
    source.unlink()
    async with peer_at(data) as peer:
        assert [found.ccid for found in peer.packages.list()] == [ccid]
        found = await peer.packages.find(ccid)
        assert (found.label, found.type) == ("ours", "python")
        same = await peer.install(found.path)
        assert same == found
        assert (await peer.query(CHANNEL, "ours", ["noop"])).status == 200


async def test_a_build_that_fails_leaves_nothing_and_shows_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = files(
        {
            "src/chaincode.py": OURS,
            "src/requirements.txt": b"no-such-thing-1\n",
            "src/wheelhouse/x-1-py3-none-any.whl": b"no wheel",
        }
    )
    source = written(tmp_path / "p", package(code))
    with caplog.at_level(logging.INFO, "peer.lifecycle.build"):
        async with peer_at(tmp_path / "data") as peer:
            with pytest.raises(PackageError, match="could not build chaincode: ") as caught:
                await peer.install(source)
            assert peer.packages.list() == []
    assert "exit code 1; last output:" in str(caught.value)
    assert "no-such-thing-1" in str(caught.value)
    assert any("no-such-thing-1" in line for line in caplog.messages)
    assert left_of(tmp_path / "data") == []


SLOW = files({"src/package.json": b'{"dependencies":{"x":"1"}}'})


@pytest.fixture
def slow_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An npm that never ends; returns the pipe into which it says that it runs."""
    programs = tmp_path / "bin"
    programs.mkdir()
    running = tmp_path / "running"
    os.mkfifo(running)
    npm = programs / "npm"
    npm.write_text(f"#!/bin/sh\nsleep 1000 &\necho installing <>{running} >&0\nwait\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("BUILD_TEST_MARK", str(tmp_path))
    return running


async def test_a_build_that_takes_too_long(tmp_path: Path, slow_npm: Path) -> None:
    source = written(tmp_path / "p", package(SLOW, kind="node"))
    async with peer_at(tmp_path / "data", install_timeout_s=0.5) as peer:
        with pytest.raises(PackageError, match=r"not done within 0\.5 s \(chaincode\.install"):
            await peer.install(source)
    assert left_of(tmp_path / "data") == []


async def test_cancelling_an_installation(tmp_path: Path, slow_npm: Path) -> None:
    source = written(tmp_path / "p", package(SLOW, kind="node"))
    async with peer_at(tmp_path / "data") as peer:
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.install, source)
                async with await trio.open_file(slow_npm) as fifo:
                    assert await fifo.readline() == "installing\n"
                assert tools(tmp_path)
                nursery.cancel_scope.cancel()
        assert tools(tmp_path) == []
        assert peer.packages.list() == []
        assert left_of(tmp_path / "data") == []


def tools(directory: Path) -> list[str]:
    """Return the commands of what the slow npm is and started."""
    marked = processes(str(directory), "BUILD_TEST_MARK").values()
    return [command for command in marked if "npm" in command or "sleep" in command]


async def test_a_build_of_a_killed_peer_is_done_again(tmp_path: Path) -> None:
    source = written(tmp_path / "p", package(files({"src/chaincode.py": OURS}), label="ours"))
    data = tmp_path / "data"
    async with peer_at(data) as peer:
        await peer.install(source)
    [home] = (data / "lifecycle" / "builds").iterdir()
    (home / "complete").unlink()
    (home / "code" / "src" / "chaincode.py").write_text("half of it")
    other = data / "lifecycle" / "builds" / "gone.1"
    shutil.copytree(home, other)
    async with peer_at(data) as peer:
        assert not other.exists()
        await peer.install(source)
        assert (await peer.query(CHANNEL, "ours", ["noop"])).status == 200


async def test_a_build_somebody_removed_is_done_again(tmp_path: Path) -> None:
    source = written(tmp_path / "p", package(files({"src/chaincode.py": OURS}), label="ours"))
    async with peer_at(tmp_path / "data") as peer:
        await peer.install(source)
        shutil.rmtree(tmp_path / "data" / "lifecycle" / "builds")
        assert (await peer.query(CHANNEL, "ours", ["noop"])).status == 200


async def test_a_directory_that_is_not_ready_is_built_elsewhere(tmp_path: Path) -> None:
    """An installed wheel of no content is enough to see that the environment is used."""
    source = tmp_path / "needs_wheel"
    source.mkdir()
    (source / "chaincode.py").write_text("import sys\nprint(sys.prefix)\nsys.exit(3)\n")
    (source / "wheelhouse").mkdir()
    name = "triopeertestdep"
    wheel = {
        f"{name}/__init__.py": "",
        f"{name}-1.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n",
        f"{name}-1.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any",
        f"{name}-1.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(source / "wheelhouse" / f"{name}-1-py3-none-any.whl", "w") as packed:
        for path, content in wheel.items():
            packed.writestr(path, content)
    before = sorted(path.name for path in source.rglob("*"))
    async with peer_at(tmp_path / "data") as peer:
        installed = await peer.install(source)
        assert installed.path == source
        assert sorted(path.name for path in source.rglob("*")) == before
    [home] = (tmp_path / "data" / "lifecycle" / "builds").iterdir()
    assert list((home / "code" / "src" / "venv" / "lib").rglob(f"{name}/__init__.py"))


@pytest.mark.parametrize("wrap", [bytes, signed])
async def test_a_deployment_spec_runs(tmp_path: Path, wrap: type[bytes]) -> None:
    """Of the types a deployment spec can have, a Node start script needs no tools."""
    deployment = spec(name="old", version="1.0")
    assert deployment.chaincode_spec is not None
    deployment.chaincode_spec.type = type(deployment.chaincode_spec.type).NODE
    manifest = {"scripts": {"start": "node -e 'process.exit(5)'"}}
    deployment.code_package = files(
        {"src/package.json": json.dumps(manifest).encode(), INDEX: GOOD_INDEX}
    )
    source = written(tmp_path / "old.cds", wrap(encode(deployment)))
    async with peer_at(tmp_path / "data") as peer:
        installed = await peer.install(source)
        assert (installed.ccid, installed.label, installed.type) == ("old:1.0", "old", "node")
        assert await peer.packages.indexes("old:1.0") == {INDEX: GOOD_INDEX}
        assert installed.path == tmp_path / "data" / "chaincodes" / "old.1.0"
    async with peer_at(tmp_path / "data") as peer:
        assert [found.ccid for found in peer.packages.list()] == ["old:1.0"]


async def test_indexes_of_a_directory(tmp_path: Path) -> None:
    source = tmp_path / "cc"
    (source / INDEX).parent.mkdir(parents=True)
    (source / INDEX).write_bytes(GOOD_INDEX)
    (source / "chaincode.py").write_bytes(OURS)
    async with peer_at(tmp_path / "data") as peer:
        installed = await peer.install(source)
        assert await peer.packages.indexes(installed.ccid) == {INDEX: GOOD_INDEX}
        (source / INDEX).write_text("{}")
        with pytest.raises(PackageError, match="array of fields"):
            await peer.packages.indexes(installed.ccid)


async def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "cc").mkdir()
    cobol = written(tmp_path / "cobol", package(files({"x": b""}), kind="COBOL"))
    ccaas = written(tmp_path / "ccaas", package(files({"x": b""}), kind="ccaas"))
    async with peer_at(tmp_path / "data") as peer:
        with pytest.raises(PackageError, match="there is no package or directory"):
            await peer.install(tmp_path / "nothing")
        with pytest.raises(PackageError, match="invalid label"):
            await peer.packages.install(tmp_path / "cc", "no label")
        with pytest.raises(PackageError, match="unknown chaincodeType: cobol"):
            await peer.install(cobol)
        with pytest.raises(PackageError, match=r"connection\.json not found"):
            await peer.install(ccaas)
