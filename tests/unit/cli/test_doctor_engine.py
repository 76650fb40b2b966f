"""What ``doctor`` makes of an engine's answers, and of engines that give none."""

from __future__ import annotations

import json
import os
import socket
import socketserver
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from peer.cli import doctor_engine
from peer.cli.doctor_engine import KINDS, api_version, engine, limits, security, storage
from peer.cli.findings import Finding, Status
from peer.config import PeerConfig

VERSION = {
    "Version": "20.10.24",
    "ApiVersion": "1.41",
    "MinAPIVersion": "1.12",
    "Components": [{"Name": "Engine"}],
}
INFO = {
    "CgroupVersion": "2",
    "CgroupDriver": "systemd",
    "MemoryLimit": True,
    "PidsLimit": True,
    "Driver": "overlay2",
    "SecurityOptions": ["name=seccomp,profile=default"],
    "DockerRootDir": "/",
}
GOOD: dict[str, tuple[int, object]] = {
    "GET /version": (200, VERSION),
    "GET /info": (200, INFO),
    "POST /networks/create": (201, {"Id": "1"}),
    "GET /networks": (200, [{"Name": "bridge"}]),
}


class FakeEngine:
    """Answers as told over a Unix socket; what it was not told is 404."""

    def __init__(self, path: Path) -> None:
        self.endpoint = f"unix://{path}"
        self.answers = dict(GOOD)
        self.requests: list[str] = []
        self.bodies: list[Any] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                request = f"{self.command} {self.path}"
                fake.requests.append(request)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if body:
                    fake.bodies.append(json.loads(body))
                default = (404, {"message": f"no such thing: {self.path}"})
                if request.startswith("DELETE /networks/triopeer-doctor-"):
                    default = (204, None)
                status, document = fake.answers.get(request, default)
                self.send_response(status)
                self.end_headers()
                if isinstance(document, bytes):
                    self.wfile.write(document)
                elif document is not None:
                    self.wfile.write(json.dumps(document).encode())

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *_: object) -> None: ...

        self.server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
        self.server.get_request = lambda: (self.server.socket.accept()[0], ("", 0))


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeEngine]:
    fake = FakeEngine(tmp_path / "s")
    with fake.server:
        thread = threading.Thread(target=fake.server.serve_forever)
        thread.start()
        yield fake
        fake.server.shutdown()
        thread.join()


def configured(endpoint: str, runtime: str = "docker", **vm: object) -> PeerConfig:
    config = PeerConfig()
    options = {"endpoint": endpoint, **vm}
    return replace(
        config, vm=replace(config.vm, runtime=runtime, endpoint=endpoint, options=options)
    )


def found(config: PeerConfig, env: Mapping[str, str] | None = None) -> dict[str, Finding]:
    findings = list(engine(config, env or {}))
    by_check = {finding.check: finding for finding in findings}
    assert len(by_check) == len(findings)
    return by_check


def test_a_good_engine(fake: FakeEngine) -> None:
    fake.answers["GET /images/python:3.12-slim/json"] = (200, {"Size": 5_000_000})
    findings = found(configured(fake.endpoint))
    good = {check for check, finding in findings.items() if finding.status is Status.OK}
    assert good >= {"engine", "API version", "cgroups", "storage", "security", "networks"}
    assert findings["engine"].detail == f"Engine 20.10.24 at {fake.endpoint} (vm.endpoint)"
    assert findings["chaincode.python.runtime"] == Finding(
        "chaincode.python.runtime", Status.OK, "python:3.12-slim, 5 MB"
    )
    missing = findings["chaincode.golang.runtime"]
    assert missing.status is Status.ADVICE
    assert "hyperledger/fabric-baseos:2.5 is not there" in missing.detail
    assert not [f for f in findings.values() if f.status is Status.BROKEN]


def test_the_trial_network_is_internal_and_removed(fake: FakeEngine) -> None:
    found(configured(fake.endpoint))
    (made,) = fake.bodies
    assert made["Internal"] is True
    assert fake.requests.count(f"DELETE /networks/{made['Name']}") == 1


def test_networks_that_cannot_be_made(fake: FakeEngine) -> None:
    fake.answers["POST /networks/create"] = (500, {"message": "no subnet is left"})
    finding = found(configured(fake.endpoint))["networks"]
    assert finding.status is Status.BROKEN
    assert finding.detail == "no subnet is left (status 500)"


def test_an_engine_that_fails_on_an_image(fake: FakeEngine) -> None:
    fake.answers["GET /images/python:3.12-slim/json"] = (500, {"message": "layer is damaged"})
    finding = found(configured(fake.endpoint))["chaincode.python.runtime"]
    assert finding.status is Status.BROKEN
    assert "layer is damaged" in finding.detail


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ((500, {"message": "out of order"}), "out of order (status 500)"),
        ((403, "go away"), "go away (status 403)"),
        ((200, b"<html>"), "the answer is not an engine's"),
    ],
)
def test_something_else_at_the_address(
    fake: FakeEngine, answer: tuple[int, object], text: str
) -> None:
    fake.answers["GET /version"] = answer
    findings = found(configured(fake.endpoint))
    assert list(findings) == ["engine"]
    assert findings["engine"].status is Status.BROKEN
    assert findings["engine"].advice.startswith("check ")
    assert text in findings["engine"].detail


@pytest.mark.parametrize("runtime", KINDS)
def test_no_socket_says_how_to_start_the_engine(tmp_path: Path, runtime: str) -> None:
    findings = found(configured(f"unix://{tmp_path}/none", runtime))
    assert list(findings) == ["engine"]
    assert findings["engine"].status is Status.BROKEN
    assert "No such file or directory" in findings["engine"].detail
    assert f"systemctl start {runtime}" in findings["engine"].advice
    assert KINDS[runtime].variable in findings["engine"].advice


def test_a_socket_without_an_engine(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(f"{tmp_path}/s")
    finding = found(configured(f"unix://{tmp_path}/s"))["engine"]
    assert "Connection refused" in finding.detail
    assert finding.advice.startswith("nobody listens there any more")


def test_a_socket_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s"
    path.touch()

    def refuse(self: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor_engine._UnixConnection, "connect", refuse)
    os.chown(path, -1, os.getegid())
    finding = found(configured(f"unix://{path}"))["engine"]
    assert finding.status is Status.BROKEN
    wanted = "run the peer as root" if os.getegid() == 0 else "usermod -aG "
    assert finding.advice.startswith(wanted)


def test_an_engine_that_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_engine, "REQUEST_LIMIT_S", 0.05)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"{tmp_path}/s")
        silent.listen()
        finding = found(configured(f"unix://{tmp_path}/s"))["engine"]
    assert finding.detail.endswith("timed out")
    assert finding.advice == "check vm.endpoint, and that the engine is healthy"


def test_the_environment_names_the_engine(fake: FakeEngine) -> None:
    assert "(DOCKER_HOST)" in found(configured(""), {"DOCKER_HOST": fake.endpoint})["engine"].detail
    podman = found(configured("", "podman"), {"CONTAINER_HOST": fake.endpoint})
    assert "(CONTAINER_HOST)" in podman["engine"].detail


@pytest.mark.parametrize(
    ("endpoint", "docker", "text"),
    [
        ("ftp://there", {}, "neither unix:///path nor tcp://host:port"),
        ("", {"hardning": "off"}, "did you mean hardening?"),
    ],
)
def test_mistakes_in_the_options(endpoint: str, docker: object, text: str) -> None:
    findings = found(configured(endpoint, docker=docker))
    assert list(findings) == ["engine options"]
    assert text in findings["engine options"].detail


def test_an_unhardened_engine_is_pointed_out(fake: FakeEngine) -> None:
    findings = found(configured(fake.endpoint, docker={"hardening": False}))
    assert findings["hardening"].status is Status.ADVICE
    assert "hardening" not in found(configured(fake.endpoint))


def test_rootless_networks_are_pointed_out(fake: FakeEngine) -> None:
    rootless = {**INFO, "SecurityOptions": ["name=seccomp", "name=rootless"]}
    fake.answers["GET /info"] = (200, rootless)
    assert found(configured(fake.endpoint))["rootless"].status is Status.ADVICE
    host = {"hostConfig": {"NetworkMode": "host"}}
    assert "rootless" not in found(configured(fake.endpoint, docker=host))


@pytest.mark.parametrize(
    ("oldest", "newest", "status", "what_to_do"),
    [
        ("1.12", "1.41", Status.OK, ""),
        ("1.24", "1.52", Status.OK, ""),
        ("1.12", "1.40", Status.BROKEN, "upgrade to Docker 20.10"),
        ("1.44", "1.52", Status.BROKEN, "DOCKER_MIN_API_VERSION=1.41"),
        (None, None, Status.BROKEN, "upgrade"),
    ],
)
def test_api_version(
    oldest: str | None, newest: str | None, status: Status, what_to_do: str
) -> None:
    finding = api_version({"MinAPIVersion": oldest, "ApiVersion": newest})
    assert finding.status is status
    assert what_to_do in finding.advice


@pytest.mark.parametrize(
    ("rootless", "what_to_do"), [(False, "in the kernel"), (True, "delegate the controllers")]
)
def test_limits_that_do_not_hold(rootless: bool, what_to_do: str) -> None:
    info = {**INFO, "MemoryLimit": False, "PidsLimit": False}
    if rootless:
        info["SecurityOptions"] = ["name=rootless"]
    (finding,) = limits(info)
    assert finding.status is Status.ADVICE
    assert "no limit on memory and processes" in finding.detail
    assert what_to_do in finding.advice


def test_slow_storage_and_missing_seccomp_are_advice() -> None:
    assert storage({"Driver": "vfs"}).status is Status.ADVICE
    (finding,) = security({}, is_hardened=True)
    assert (finding.status, finding.detail) == (Status.ADVICE, "none")


def test_what_is_known_of_engines_is_what_the_backends_know() -> None:
    pytest.importorskip("aiodocker")
    from runtimes import docker, podman

    for flavour in (docker.FLAVOUR, podman.FLAVOUR):
        kind = KINDS[flavour.name]
        assert kind.variable == flavour.variable
        assert kind.has_contexts == flavour.has_contexts
        assert kind.sockets == flavour.sockets
