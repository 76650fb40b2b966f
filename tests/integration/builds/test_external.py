"""External builders and services: scripts as people have them, at a real peer."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from peer.config.model import ExternalBuilder
from peer.errors import PackageError
from tests.chaincodes.prepare import SOURCES
from tests.integration.builds.workshop import OURS, peer_at, written
from tests.integration.peer.scene import CHANNEL, vanished
from tests.unit.lifecycle.archives import files, package
from tests.unit.lifecycle.test_packages import GOOD_INDEX, INDEX


def builder(directory: Path, **programs: str) -> ExternalBuilder:
    """Write an external builder of shell scripts."""
    bin_dir = directory / "bin"
    bin_dir.mkdir(parents=True)
    for name, script in programs.items():
        (bin_dir / name).write_text(f"#!/bin/sh\nset -e\n{script}\n")
        (bin_dir / name).chmod(0o755)
    return ExternalBuilder(
        name=directory.name, path=directory, propagate_environment=("BUILD_TEST_MARK",)
    )


DETECT = 'grep -q \'"type": "mine"\' "$2/metadata.json"'
BUILD = """
test -z "$CORE_SECRET"
echo building "$BUILD_TEST_MARK" >&2
cp "$1/chaincode.py" "$3/"
echo built >> "$BUILD_TEST_MARK/builds"
"""
RELEASE = f"""
mkdir -p "$2/statedb/couchdb/indexes"
echo '{GOOD_INDEX.decode()}' > "$2/statedb/couchdb/indexes/released.json"
"""
# What scripts for other languages do: take the address and the id out of chaincode.json.
RUN = """
value() { sed -n "s/.*\\"$1\\": \\"\\([^\\"]*\\)\\".*/\\1/p" "$metadata/chaincode.json"; }
metadata=$2
test "$(value mspid)" = SampleOrg
test "$(stat -c %a "$metadata/chaincode.json")" = 600
export CORE_CHAINCODE_ID_NAME="$(value chaincode_id)"
cd "$1"
PYTHON chaincode.py -peer.address "$(value peer_address)"
"""


def mine(tmp_path: Path, **files_of_code: bytes) -> Path:
    code = files({"chaincode.py": OURS, **files_of_code})
    return written(tmp_path / "mine", package(code, label="mine", kind="mine"))


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExternalBuilder:
    monkeypatch.setenv("BUILD_TEST_MARK", str(tmp_path))
    monkeypatch.setenv("CORE_SECRET", "secret")
    interpreter = f"PYTHONPATH={os.environ.get('PYTHONPATH', '')} {sys.executable}"
    run = RUN.replace("PYTHON", interpreter)
    return builder(tmp_path / "own", detect=DETECT, build=BUILD, release=RELEASE, run=run)


async def test_an_external_builder_builds_and_runs(
    tmp_path: Path, programs: ExternalBuilder, caplog: pytest.LogCaptureFixture
) -> None:
    refusing = builder(tmp_path / "refusing", detect="exit 1", build="exit 9")
    broken = ExternalBuilder(name="broken", path=tmp_path / "nowhere")
    external = (broken, refusing, programs)
    data = tmp_path / "data"
    source = mine(tmp_path)
    with caplog.at_level(logging.INFO, "peer.chaincode.externalbuilder.own"):
        async with peer_at(data, external_builders=external) as peer:
            ccid = (await peer.install(source)).ccid
            assert f"build: building {tmp_path}" in caplog.messages
            released = await peer.packages.indexes(ccid)
            assert list(released) == ["META-INF/statedb/couchdb/indexes/released.json"]
            assert (await peer.invoke(CHANNEL, "mine", ["put", "k", "v"])).committed
            assert (await peer.query(CHANNEL, "mine", ["get", "k"])).payload == b"v"
            kept = data / "externalbuilder" / "builds" / ccid.replace(":", "-")
            assert json.loads((kept / "build-info.json").read_text()) == {"builder_name": "own"}
            assert sorted(path.name for path in kept.iterdir()) == [
                "bld",
                "build-info.json",
                "release",
            ]
            metadata = list((data / "runtimes" / "process" / "instances").glob("*/metadata"))
            assert len(metadata) == 1
        await vanished(ccid)
        assert not metadata[0].exists()
        async with peer_at(data, external_builders=external) as peer:
            await peer.install(source)
            assert (await peer.query(CHANNEL, "mine", ["noop"])).status == 200
    assert (tmp_path / "builds").read_text() == "built\n"
    async with peer_at(data, external_builders=(refusing,)) as peer:
        with pytest.raises(PackageError, match="external builder 'own', which is not configured"):
            await peer.install(source)


@pytest.mark.parametrize(
    ("scripts", "reason"),
    [
        ({"build": "echo no good >&2; exit 3"}, "'bad' failed: build: exit code 3\n  no good"),
        ({"build": "true", "release": "exit 4"}, "'bad' failed: release: exit code 4"),
        ({"build": "true"}, "has no bin/run"),
        ({}, "'bad' failed: cannot execute .*/bin/build"),
        (
            {
                "build": "true",
                "release": 'mkdir -p "$2/chaincode/server"; '
                'echo "{}" > "$2/chaincode/server/connection.json"',
            },
            "chaincode address not provided",
        ),
    ],
)
async def test_an_external_builder_that_fails(
    tmp_path: Path, scripts: dict[str, str], reason: str
) -> None:
    external = (builder(tmp_path / "bad", detect="exit 0", **scripts),)
    async with peer_at(tmp_path / "data", external_builders=external) as peer:
        with pytest.raises(PackageError, match=reason):
            await peer.install(mine(tmp_path))
        assert peer.packages.list() == []


async def test_the_built_in_builder_of_services(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("CHAINCODE_AS_A_SERVICE_BUILDER_CONFIG", json.dumps({"host": "127.0.0.1"}))
    connection = {"address": f"{{{{.host}}}}:{port}", "dial_timeout": "10s"}
    code = files({"./connection.json": json.dumps(connection).encode(), INDEX: GOOD_INDEX})
    source = written(tmp_path / "service", package(code, label="service", kind="CCAAS"))
    async with peer_at(tmp_path / "data") as peer:
        installed = await peer.install(source)
        assert await peer.packages.indexes(installed.ccid) == {INDEX: GOOD_INDEX}
        env = os.environ | {
            "CHAINCODE_ID": installed.ccid,
            "CORE_CHAINCODE_ID_NAME": installed.ccid,
            "CHAINCODE_SERVER_ADDRESS": f"127.0.0.1:{port}",
        }
        async with trio.open_nursery() as nursery:
            command = [sys.executable, str(SOURCES / "ours" / "chaincode.py")]
            nursery.start_soon(partial(trio.run_process, command, env=env, check=False))
            assert (await peer.invoke(CHANNEL, "service", ["put", "k", "v"])).committed
            nursery.cancel_scope.cancel()
