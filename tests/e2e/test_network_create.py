"""``network create`` as its user meets it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from peer.channel.network import load

ROOT = Path(__file__).parents[2]
SEARCHED = os.pathsep.join((str(ROOT), str(ROOT / "proto")))


def network_create(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "peer", "network", "create", *args],
        env={**os.environ, "PYTHONPATH": SEARCHED},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_network_and_its_listing(tmp_path: Path) -> None:
    target = tmp_path / "net"
    done = network_create(
        target, "--org", "Org1", "--org", "Org2", "--peers", "2", "--channel", "ch1",
        "--capability", "V1_4_2", "--batch-timeout", "10ms", "--users", "0",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        str(target),
        "  peerOrganizations/org1.example.com  Org1MSP",
        "    peers/peer0.org1.example.com  localhost:7051",
        "    peers/peer1.org1.example.com  localhost:8051",
        "    users/Admin@org1.example.com",
        "  peerOrganizations/org2.example.com  Org2MSP",
        "    peers/peer0.org2.example.com  localhost:9051",
        "    peers/peer1.org2.example.com  localhost:10051",
        "    users/Admin@org2.example.com",
        "  ordererOrganizations/example.com  OrdererMSP",
        "    orderers/orderer.example.com  localhost:7050",
        "    users/Admin@example.com",
        "  ch1.block  genesis block of channel ch1",
    ]
    for line in done.stdout.splitlines()[1:]:
        named = line.split()[0]
        assert list(target.rglob(named)) or (target / named).exists(), line
    description = load(target).description
    assert description.capability == "V1_4_2"
    assert description.batch_timeout == "10ms"


def test_the_defaults(tmp_path: Path) -> None:
    done = network_create(tmp_path)
    assert done.returncode == 0
    description = load(tmp_path).description
    assert (description.channel_id, description.organisations) == ("mychannel", ("Org1",))
    assert (description.peers, description.users, description.capability) == (1, 1, "V2_0")


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    done = network_create(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: network {tmp_path}: the directory is not empty\n"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_wrong_names_are_wrong_usage(tmp_path: Path) -> None:
    done = network_create(tmp_path / "net", "--channel", "No", "--peers", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert "channel 'No': expected lower-case" in done.stderr
    assert "1 to 59 peers" in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert network_create(tmp_path / "net", "--capability", "V9").returncode == 2
