"""A channel's snapshot, asked for at one peer and joined by at another, with commands alone."""

from __future__ import annotations

import json
import signal
from contextlib import ExitStack
from pathlib import Path

from tests.e2e.commands import command
from tests.e2e.test_networks import Machines

CHANNEL = ("-c", "mychannel")
IN_PROGRESS = "A joinbysnapshot operation is in progress for snapshot at "


def approve(machines: Machines, index: int, version: str = "1.0") -> None:
    """Make one block, with private data of an organisation."""
    machines.admin(
        index, "lifecycle", "chaincode", "approveformyorg", "-C", "mychannel", "-n", "assets",
        "-v", version, "--sequence", "1", *machines.to_orderer(),
    )  # fmt: skip


def info(machines: Machines, index: int) -> dict[str, object]:
    told = machines.admin(index, "channel", "getinfo", *CHANNEL)
    found = json.loads(told.removeprefix("Blockchain info: "))
    assert isinstance(found, dict)
    return found


def newest(machines: Machines, index: int) -> bytes:
    """Return the last block as a peer has it, verdicts and commit hash included."""
    path = machines.directory / f"newest{index}.block"
    machines.admin(index, "channel", "fetch", "newest", path, *CHANNEL)
    return path.read_bytes()


def refused(machines: Machines, index: int, *args: str | Path) -> str:
    """Run a command of an organisation's administrator that fails."""
    organisation = machines.network.organisations[index]
    env = {
        "CORE_PEER_LOCALMSPID": organisation.msp_id,
        "CORE_PEER_MSPCONFIGPATH": str(organisation.users[0].msp),
        "CORE_PEER_ADDRESS": machines.peers[index],
        "CORE_PEER_TLS_ENABLED": "true",
        "CORE_PEER_TLS_ROOTCERT_FILE": str(organisation.nodes[0].tls / "ca.crt"),
    }
    done = command(*args, env=env)
    assert done.returncode == 1, done.stdout
    return done.stderr


def test_from_a_request_to_a_second_peer(tmp_path: Path) -> None:
    machines = Machines(tmp_path)
    with ExitStack() as stack:
        stack.enter_context(machines.ordering())
        stack.enter_context(machines.peer(0))
        machines.admin(0, "channel", "join", "-b", machines.network.genesis_path)
        ask = ("snapshot", "submitrequest", *CHANNEL)
        assert machines.admin(0, *ask, "-b", "2") == "Snapshot request submitted successfully\n"
        machines.admin(0, *ask, "-b", "7")
        pending = ("snapshot", "listpending", *CHANNEL)
        told = "Successfully got pending snapshot requests: "
        assert machines.admin(0, *pending) == f"{told}[2 7]\n"
        cancelled = machines.admin(0, "snapshot", "cancelrequest", *CHANNEL, "-b", "7")
        assert cancelled == "Snapshot request cancelled successfully\n"
        assert "duplicate snapshot request for block number 2" in refused(
            machines, 0, *ask, "-b", "2"
        )
        assert "cannot find ledger for channel absent" in refused(
            machines, 0, "snapshot", "listpending", "-c", "absent"
        )
        approve(machines, 0)
        approve(machines, 0, "2.0")
        while machines.admin(0, *pending) != f"{told}[]\n":
            pass
        place = tmp_path / "data0" / "snapshots" / "completed" / "mychannel" / "2"

        second = stack.enter_context(machines.peer(1))
        join = ("channel", "joinbysnapshot", "--snapshotpath")
        assert "No such file" in refused(machines, 1, *join, tmp_path / "nowhere")
        machines.admin(1, *join, place)
        while machines.admin(1, "channel", "joinbysnapshotstatus").startswith(IN_PROGRESS):
            pass
        status = machines.admin(1, "channel", "joinbysnapshotstatus")
        assert status == "No joinbysnapshot operation is in progress\n"
        assert info(machines, 1)["bootstrappingSnapshotInfo"] == {"lastBlockInSnapshot": 2}
        assert "already exists" in refused(machines, 1, *join, place)
        approve(machines, 1)
        while info(machines, 0)["currentBlockHash"] != info(machines, 1)["currentBlockHash"]:
            pass
        assert info(machines, 1)["height"] == 4
        assert newest(machines, 0) == newest(machines, 1)
        block = tmp_path / "first.block"
        assert "NOT_FOUND" in refused(machines, 1, "channel", "fetch", "0", block, *CHANNEL)

        second.send_signal(signal.SIGTERM)
        assert second.wait(30) == 0
        rebuild = command(
            "node", "rebuild-dbs", env={"CORE_PEER_FILESYSTEMPATH": str(tmp_path / "data1")}
        )
        assert rebuild.returncode == 1
        assert "contains channel(s) [mychannel] that were bootstrapped" in rebuild.stderr
        stack.enter_context(machines.peer(1))
        approve(machines, 0, "3.0")
        while info(machines, 0)["currentBlockHash"] != info(machines, 1)["currentBlockHash"]:
            pass
        assert newest(machines, 0) == newest(machines, 1)
