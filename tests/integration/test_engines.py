"""The tests' own engines: what they hand out works, and nothing of them is left."""

from __future__ import annotations

import fcntl
import io
import re
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines import engine as engine_module
from tests.engines.engine import ENGINES, ROOT_IMAGES, USER_IMAGES, Engine, EngineBroken
from tests.engines.processes import is_alive
from tests.engines.rootfs import cache_directory


@pytest.fixture(params=["docker", "podman"])
def engine(request: pytest.FixtureRequest) -> Engine:
    found = request.getfixturevalue(f"{request.param}_engine")
    assert isinstance(found, Engine)
    return found


@pytest.fixture
def own(engine: Engine) -> Iterator[Engine]:
    """An engine that no other test uses, with an image of a single program."""
    with open(cache_directory() / "engine-own.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        own = ENGINES[engine.name](number=1)
        own.down()
        own.start()
        try:
            own.load(io.BytesIO(packed_sleep()), "localhost/sleep:latest")
            yield own
        finally:
            own.down()


def packed_sleep() -> bytes:
    sleep = shutil.which("sleep")
    assert sleep is not None
    linked = subprocess.run(["ldd", sleep], capture_output=True, text=True, check=True).stdout
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", dereference=True) as tar:
        for file in {sleep, *re.findall(r"/\S+", linked)}:
            tar.add(file)
    return packed.getvalue()


def run_sleep(engine: Engine) -> str:
    """Start a container on the engine's bridge and return its path in the API."""
    config: dict[str, object] = {
        "Image": "localhost/sleep:latest",
        "Cmd": [shutil.which("sleep"), "1000"],
    }
    config["StopSignal"] = "SIGKILL"  # it would ignore any other
    status, created = engine.request("POST", "/containers/create", config)
    assert status == 201, created
    path = f"/containers/{created['Id']}"
    assert engine.request("POST", f"{path}/start") == (204, "")
    return path


def test_every_base_image_is_there_and_runs_as_in_fabric(engine: Engine) -> None:
    users = {}
    for kind, image in engine.images.items():
        status, described = engine.request("GET", f"/images/{image}/json")
        assert status == 200
        users[kind] = described["Config"].get("User") or "root"
    assert users == dict.fromkeys(ROOT_IMAGES, "root") | dict.fromkeys(USER_IMAGES, "chaincode")


def test_the_images_hold_what_chaincodes_need(engine: Engine) -> None:
    script = "id -u; id -g; go env GOVERSION; node -v; npm -v; python3 -c 'import grpclib, trio'"
    config: dict[str, object] = {
        "Image": engine.images["builder"],
        "Cmd": ["/bin/sh", "-ec", script],
    }
    config["Tty"] = True  # a terminal has no frames in its log
    _, created = engine.request("POST", "/containers/create", config)
    path = f"/containers/{created['Id']}"
    try:
        assert engine.request("POST", f"{path}/start") == (204, "")
        status, ended = engine.request("POST", f"{path}/wait")
        _, said = engine.request("GET", f"{path}/logs?stdout=true")
    finally:
        engine.request("DELETE", f"{path}?force=true")
    assert (status, ended["StatusCode"]) == (200, 0), said
    lines = said.split()
    assert lines[:2] == ["500", "500"]
    assert [line[:3] for line in lines[2:4]] == ["go1", "v18"]


def test_a_daemon_can_be_killed_under_a_container_and_started_again(own: Engine) -> None:
    container = run_sleep(own)
    own.stop(signal.SIGKILL)
    assert not own.is_ready()
    assert own.processes()  # those of the container
    own.start()
    assert own.request("GET", f"{container}/json")[0] == 200


@pytest.mark.parametrize("how", [None, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left(own: Engine, how: signal.Signals | None) -> None:
    run_sleep(own)
    processes = own.processes()
    assert Path("/sys/class/net", own.bridge).exists()
    if how is not None:
        own.stop(how)
    own.down()
    assert own.processes() == set()
    assert not any(map(is_alive, processes))
    assert not own.state.exists()
    assert not own.storage.exists()
    mounts = Path("/proc/self/mountinfo").read_text()
    assert f"{own.state}/" not in mounts
    assert f"{own.storage}/" not in mounts
    assert not Path("/sys/class/net", own.bridge).exists()


def test_the_last_user_removes_what_no_one_wants_kept(
    own: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own, "_provide_images", lambda: None)
    with own.used():
        with own.used():
            pass
        assert own.is_ready()
    assert not own.is_ready()
    own.up()
    with own.used():
        pass
    assert own.is_ready()


def test_a_daemon_that_cannot_start_shows_its_log(
    own: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.stop()
    monkeypatch.setattr(engine_module, "START_LIMIT_S", 1.0)
    monkeypatch.setattr(own, "_command", lambda: ["sh", "-c", "echo no such option >&2"])
    with pytest.raises(EngineBroken, match=r"(?s)does not answer within 1.0 s.*no such option"):
        own.start()
