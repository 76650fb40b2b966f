"""Networks of several machines as docs/networks.md makes them, all of it on this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from peer.channel import network
from peer.channel.network import Member, Network, NetworkDescription
from tests.e2e.commands import EXAMPLE, command, variables
from tests.integration.ordering.programs import free_port

MSP_IDS = ("Org1MSP", "Org2MSP")


@contextmanager
def started(
    *args: str | Path, env: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a command that serves, and yield it with the line it prints when it does."""
    with subprocess.Popen(
        [sys.executable, "-m", "peer", *args],
        env={**variables(), **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().rstrip("\n")
        finally:
            process.kill()


class Machines:
    """An orderer and two peers of two organisations, and their administrators' commands."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.orderer = f"localhost:{free_port()}"
        self.peers = [f"localhost:{free_port()}" for _ in MSP_IDS]
        made = command(
            "network", "create", directory / "net", "--org", "Org1", "--org", "Org2",
            "--batch-timeout", "100ms",
            "--address", f"orderer.example.com={self.orderer}",
            "--address", f"peer0.org1.example.com={self.peers[0]}",
            "--address", f"peer0.org2.example.com={self.peers[1]}",
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        self.network: Network = network.load(directory / "net")

    @property
    def orderer_ca(self) -> Path:
        return self.network.orderer.nodes[0].tls / "ca.crt"

    @contextmanager
    def ordering(self) -> Iterator[subprocess.Popen[str]]:
        """Run the orderer with what is its own."""
        node = self.network.orderer.nodes[0]
        with started(
            "orderer", "start", "--msp", node.msp, "--genesis", self.network.genesis_path,
            "--data", self.directory / "blocks", "--listen", self.orderer,
            "--tls", "--cert", node.tls / "server.crt", "--key", node.tls / "server.key",
        ) as (process, line):  # fmt: skip
            assert line == f"orderer started at {self.orderer}; orders mychannel; Ctrl-C ends it"
            yield process

    @contextmanager
    def peer(self, index: int) -> Iterator[subprocess.Popen[str]]:
        """Run a peer with what is its own."""
        node = self.network.organisations[index].nodes[0]
        env = {
            "CORE_PEER_LOCALMSPID": MSP_IDS[index],
            "CORE_PEER_MSPCONFIGPATH": str(node.msp),
            "CORE_PEER_FILESYSTEMPATH": str(self.directory / f"data{index}"),
            "CORE_PEER_LISTENADDRESS": self.peers[index],
            "CORE_PEER_ADDRESS": self.peers[index],
            "CORE_PEER_TLS_ENABLED": "true",
            "CORE_PEER_TLS_CERT_FILE": str(node.tls / "server.crt"),
            "CORE_PEER_TLS_KEY_FILE": str(node.tls / "server.key"),
        }
        with started("node", "start", env=env) as (process, line):
            assert line.startswith(f"peer jdoe started at {self.peers[index]}")
            yield process

    def admin(self, index: int, *args: str | Path) -> str:
        """Run a command of an organisation's administrator, and return what it prints."""
        organisation = self.network.organisations[index]
        env = {
            "CORE_PEER_LOCALMSPID": MSP_IDS[index],
            "CORE_PEER_MSPCONFIGPATH": str(organisation.users[0].msp),
            "CORE_PEER_ADDRESS": self.peers[index],
            "CORE_PEER_TLS_ENABLED": "true",
            "CORE_PEER_TLS_ROOTCERT_FILE": str(organisation.nodes[0].tls / "ca.crt"),
        }
        done = command(*args, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def to_orderer(self) -> tuple[str | Path, ...]:
        return ("-o", self.orderer, "--tls", "--cafile", self.orderer_ca)

    def to_peers(self) -> tuple[str | Path, ...]:
        flags: list[str | Path] = []
        for address, organisation in zip(self.peers, self.network.organisations, strict=True):
            root = organisation.nodes[0].tls / "ca.crt"
            flags += ["--peerAddresses", address, "--tlsRootCertFiles", root]
        return tuple(flags)


def test_from_keys_to_a_transaction_on_both_peers(tmp_path: Path) -> None:
    machines = Machines(tmp_path)
    with ExitStack() as stack:
        orderer = stack.enter_context(machines.ordering())
        for index in (0, 1):
            stack.enter_context(machines.peer(index))
            first = tmp_path / f"first{index}.block"
            machines.admin(
                index, "channel", "fetch", "oldest", first, "-c", "mychannel",
                *machines.to_orderer(),
            )  # fmt: skip
            assert first.read_bytes() == machines.network.genesis_path.read_bytes()
            machines.admin(index, "channel", "join", "-b", first)
        package = tmp_path / "assets.tar.gz"
        machines.admin(
            0, "lifecycle", "chaincode", "package", package, "--path", EXAMPLE,
            "--lang", "python", "--label", "assets",
        )  # fmt: skip
        package_id = machines.admin(
            0, "lifecycle", "chaincode", "calculatepackageid", package
        ).strip()
        definition = ("-C", "mychannel", "-n", "assets", "-v", "1.0", "--sequence", "1")
        for index in (0, 1):
            machines.admin(index, "lifecycle", "chaincode", "install", package)
            machines.admin(
                index, "lifecycle", "chaincode", "approveformyorg", *definition,
                "--package-id", package_id, *machines.to_orderer(),
            )  # fmt: skip
        machines.admin(
            0, "lifecycle", "chaincode", "commit", *definition,
            *machines.to_orderer(), *machines.to_peers(),
        )  # fmt: skip
        machines.admin(
            0, "chaincode", "invoke", "-C", "mychannel", "-n", "assets",
            "-c", '{"Args":["put","greeting","hello"]}', "--waitForEvent",
            *machines.to_orderer(), *machines.to_peers(),
        )  # fmt: skip
        for index in (0, 1):
            query = ("chaincode", "query", "-C", "mychannel", "-n", "assets")
            said = machines.admin(index, *query, "-c", '{"Args":["get","greeting"]}')
            assert said == "hello\n"
        orderer.send_signal(signal.SIGTERM)
        assert orderer.wait(30) == 0


def test_ctrl_c_ends_an_orderer(tmp_path: Path) -> None:
    description = NetworkDescription(addresses={"orderer.example.com": f"localhost:{free_port()}"})
    made = network.create(tmp_path / "net", description)
    with started("orderer", "start", "--network", made.directory) as (process, line):
        address = made.orderer.nodes[0].address
        assert line == f"orderer started at {address}; orders mychannel; Ctrl-C ends it"
        busy = command(
            "orderer", "start", "--network", made.directory, "--data", tmp_path / "elsewhere"
        )
        assert busy.returncode == 2
        assert f"--listen {address}: " in busy.stderr
        locked = command("orderer", "start", "--network", made.directory, "--listen", "[::1]:0")
        assert (locked.returncode, locked.stdout) == (1, "")
        assert "in use by another" in locked.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return network.create(tmp_path_factory.mktemp("made") / "net", NetworkDescription())


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ([], "give --network, or --msp, --data and --listen"),
        (["--msp", "{node}/msp"], "give --network, or --msp, --data and --listen"),
        (["--network", "{net}", "--msp", "{node}/msp"], "--network has MSP, genesis block"),
        (["--msp", "m", "--data", "d", "--listen", "h:1", "--tls"], "--tls needs --cert and --key"),
        (
            ["--msp", "m", "--data", "d", "--listen", "h:1", "--client-auth"],
            "--client-auth needs --tls and --client-ca",
        ),
        (
            ["--msp", "m", "--data", "d", "--listen", "h:1", "--client-ca", "c"],
            "--client-ca is for --client-auth",
        ),
        (["--network", "{net}", "--listen", "nowhere"], "--listen nowhere: expected host:port"),
        (
            [
                "--msp", "{node}/msp", "--data", "{tmp}/d", "--listen", "localhost:0",
                "--genesis", "{node}/tls/ca.crt",
            ],
            "ca.crt is no block: ",
        ),
        (
            [
                "--msp", "{node}/msp", "--data", "{tmp}/d", "--listen", "localhost:0",
                "--tls", "--cert", "{node}/tls/server.key", "--key", "{node}/tls/server.key",
            ],
            "TLS: ",
        ),
    ],
)  # fmt: skip
def test_what_an_orderer_cannot_start_with(
    made: Network, tmp_path: Path, args: list[str], problem: str
) -> None:
    node: Member = made.orderer.nodes[0]
    filled = [arg.format(net=made.directory, node=node.directory, tmp=tmp_path) for arg in args]
    done = command("orderer", "start", *filled)
    assert (done.returncode, done.stdout) == (2, "")
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


def test_a_member_whose_blocks_peers_would_refuse(made: Network, tmp_path: Path) -> None:
    peer = made.organisations[0].nodes[0]
    done = command(
        "orderer", "start", "--msp", peer.msp, "--msp-id", "Org1MSP", "--data", tmp_path / "d",
        "--listen", "localhost:0", "--genesis", made.genesis_path,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert "peers of mychannel would refuse what this member signs" in done.stderr
    assert not os.listdir(tmp_path / "d") or os.listdir(tmp_path / "d") == ["lock"]
