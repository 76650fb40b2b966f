"""What two peers run their chaincodes on, and real chaincodes to run."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from fabric_protos.codec import encode
from fabric_protos.protos import (
    ChaincodeDeploymentSpec,
    ChaincodeId,
    ChaincodeSpec,
    ChaincodeSpecType,
)
from peer import PeerConfig
from peer.lifecycle import archive
from peer.lifecycle.packages import code_files, pack
from runtimes import docker
from tests.chaincodes.prepare import counterpart
from tests.contract.containers import ContainerHouse
from tests.engines.engine import Engine
from tests.integration.containers.packages import bundled_node
from tests.integration.network.scene import Configure


@pytest.fixture(params=["process", "docker"])
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Configure]:
    """Configure both peers for one runtime, each with a data directory of its own."""
    if request.param == "process":
        yield lambda index, config: kept(config, tmp_path / f"data{index}", f"peer{index}")
        return
    engine: Engine = request.getfixturevalue("docker_engine")
    with ExitStack() as stack:
        houses = [
            stack.enter_context(ContainerHouse(engine, docker.backend).held()) for _ in range(2)
        ]

        def configure(index: int, config: PeerConfig) -> PeerConfig:
            config = kept(config, tmp_path / f"data{index}", houses[index].peer_id)
            images = engine.images
            chaincode = replace(
                config.chaincode,
                builder=images["builder"],
                golang_runtime=images["golang"],
                node_runtime=images["node"],
            )
            vm = replace(
                config.vm,
                runtime=engine.name,
                endpoint=engine.endpoint,
                options={"endpoint": engine.endpoint},
            )
            return replace(config, chaincode=chaincode, vm=vm)

        yield configure
        assert [house.containers() for house in houses] == [[], []]


def kept(config: PeerConfig, directory: Path, name: str) -> PeerConfig:
    return replace(config, peer=replace(config.peer, id=name, file_system_path=str(directory)))


@pytest.fixture(scope="session")
def golang(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the Go chaincode on the official library, compiled."""
    directory = tmp_path_factory.mktemp("golang")
    shutil.copy(counterpart("golang").path / "chaincode", directory)
    return directory


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the Node chaincode on the official library, which it brings along."""
    return bundled_node(tmp_path_factory.mktemp("node") / "code")


@pytest.fixture
def name() -> str:
    """A chaincode's name that nothing else on this machine has."""
    return f"cc{secrets.token_hex(4)}"


Make = Callable[[str, str], bytes]


@pytest.fixture
def deployments(golang: Path, node: Path) -> Make:
    """Make deployment specs as ``peer chaincode package`` does: 1.0 of Go, 2.0 of Node.js."""

    def made(name: str, version: str) -> bytes:
        kind = ChaincodeSpecType.NODE if version == "2.0" else ChaincodeSpecType.GOLANG
        path = "" if version == "2.0" else "example.org/behaviour"
        identity = ChaincodeId(name=name, version=version, path=path)
        spec = ChaincodeSpec(type=kind, chaincode_id=identity)
        code = archive.pack(code_files(node if version == "2.0" else golang))
        return encode(ChaincodeDeploymentSpec(chaincode_spec=spec, code_package=code))

    return made


@pytest.fixture
def packages(golang: Path, node: Path) -> Make:
    """The same as packages of lifecycle v2."""

    def made(name: str, version: str) -> bytes:
        directory, kind = (node, "node") if version == "2.0" else (golang, "golang")
        return pack(directory, kind, f"{name}_{version}")

    return made
