"""Checks of the machine and the configuration, good and bad."""

from __future__ import annotations

import os
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from peer.cli import findings
from peer.cli.findings import Finding, Status, addresses, configuration, disk, processes
from peer.config import PeerConfig


def with_peer(**values: object) -> PeerConfig:
    config = PeerConfig()
    return replace(config, peer=replace(config.peer, **values))


def by_check(found: object) -> dict[str, Finding]:
    assert hasattr(found, "__iter__")
    return {finding.check: finding for finding in found}


def test_configuration_tells_replaced_values_and_how_many_were_given() -> None:
    loaded = PeerConfig.load(
        env={"CORE_CHAINCODE_EXECUTETIMEOUT": "1ms", "CORE_PEER_ID": "p"}, path=None
    )
    found = list(configuration(loaded))
    assert [finding.status for finding in found] == [Status.ADVICE, Status.OK, Status.OK]
    assert "below the least value" in found[0].detail
    assert found[1].detail.endswith("settings given: 2")


def test_an_address_no_chaincode_can_dial() -> None:
    config = with_peer(chaincode_address="0.0.0.0:7052")
    finding = by_check(configuration(config))["chaincode address"]
    assert finding.status is Status.BROKEN
    assert "invalid endpoint for chaincode to connect" in finding.detail


def test_the_name_by_which_an_engine_elsewhere_reaches_the_peer() -> None:
    config = with_peer(chaincode_address="peer.example.com:7052")
    finding = by_check(configuration(config))["chaincode address"]
    assert finding.status is Status.OK
    assert finding.detail.endswith("reaches this one as peer.example.com")


@pytest.fixture
def taken() -> object:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def test_a_port_in_use_is_broken_only_where_the_peer_listens(taken: int) -> None:
    address = f"127.0.0.1:{taken}"
    config = with_peer(chaincode_listen_address=address, address="127.0.0.1:0")
    finding = by_check(addresses(config))["peer.chaincodeListenAddress"]
    assert finding.status is Status.ADVICE
    assert f"holds port {taken}" in finding.advice
    dev = replace(config, chaincode=replace(config.chaincode, mode="dev"))
    finding = by_check(addresses(dev))["peer.chaincodeListenAddress"]
    assert finding.status is Status.BROKEN
    assert by_check(addresses(dev))["peer.address"].status is Status.OK


def test_an_address_of_another_machine() -> None:
    finding = by_check(addresses(with_peer(address="192.0.2.77:7051")))["peer.address"]
    assert finding.status is Status.ADVICE
    assert "no interface" in finding.advice


def test_a_host_without_an_address() -> None:
    finding = by_check(addresses(with_peer(address="no-such-host.invalid:7051")))["peer.address"]
    assert finding.status is Status.ADVICE
    assert finding.advice == "correct the host of peer.address"


def test_an_address_that_is_not_set() -> None:
    found = by_check(addresses(with_peer(address="")))
    assert found["peer.address"].status is Status.BROKEN


def test_a_low_port_without_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(socket.socket):
        def bind(self, address: object) -> None:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(findings.socket, "socket", Refusing)
    finding = by_check(addresses(with_peer(address="127.0.0.1:80")))["peer.address"]
    assert finding.advice.startswith("ports below 1024 need root")


@pytest.mark.parametrize(
    ("free", "status"),
    [(100 << 30, Status.OK), (1 << 30, Status.ADVICE), (1 << 20, Status.BROKEN)],
)
def test_space(free: int, status: Status, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage if place == tmp_path else None)
    config = with_peer(file_system_path=str(tmp_path / "not" / "yet"))
    (finding,) = disk(config)
    assert finding.status is status
    assert str(tmp_path / "not" / "yet") in finding.detail


def test_a_directory_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    finding = next(iter(disk(with_peer(file_system_path=str(tmp_path)))))
    assert finding.status is Status.BROKEN
    assert f"cannot write to {tmp_path}" in finding.detail


def program(directory: Path, name: str, script: str) -> None:
    file = directory / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def test_tool_chains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "COMMAND_LIMIT_S", 0.2)
    program(tmp_path, "node", "echo v18.20.4")
    program(tmp_path, "npm", "echo broken >&2; exit 3")
    program(tmp_path, "java", "exec /bin/sleep 60")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = by_check(processes())
    assert found["/proc"].status is Status.OK
    assert found["python"].status is Status.OK
    assert found["node"] == Finding("node", Status.OK, f"v18.20.4, {tmp_path}/node")
    assert found["npm"].status is Status.ADVICE
    assert found["npm"].detail == f"{tmp_path}/npm --version ended with 3: broken"
    assert found["go"].detail == "not installed"
    assert found["go"].advice.endswith("for building Go chaincodes")
    assert found["java"].status is Status.ADVICE
    assert "timed out" in found["java"].detail


def test_hidden_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    finding = by_check(processes(tmp_path))["/proc"]
    assert finding.status is Status.BROKEN
    assert "hidepid" in finding.advice
