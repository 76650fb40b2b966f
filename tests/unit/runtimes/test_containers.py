"""The container backend on an engine in memory."""

from __future__ import annotations

import fcntl
import io
import socket
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from runtimes.api import (
    ExitStatus,
    RuntimeFailure,
    RuntimeSettings,
    RuntimeUnavailable,
    Stage,
    StartFailed,
    TcpOrigin,
    UnixOrigin,
    UploadFailed,
)
from runtimes.containers import bridge, start_contract
from runtimes.containers.address import EngineAddress
from runtimes.containers.config import container_plan
from runtimes.containers.engine import ContainerState, EngineRefused, Image
from runtimes.containers.instance import ContainerInstance, exit_status
from runtimes.containers.network import Networks, own_network_name
from runtimes.containers.options import ContainerOptions
from runtimes.containers.session import LOCKED_BY, PEER, SESSION, open_session
from runtimes.output import Output
from tests.contract.containers import FakeEngineHarness
from tests.contract.harness import EXITS, SERVES
from tests.fakes.engine import FakeContainer, FakeEngine

NAME = "dev-peer0-asset-1.0"
BUILD = (
    *("create", "fill", "attach", "start", "wait", "inspect", "fetch", "remove"),
    *("create", "fill", "commit", "remove"),
)


@pytest.fixture
def harness(tmp_path: Path) -> FakeEngineHarness:
    return FakeEngineHarness(tmp_path)


async def test_the_steps_of_a_start_in_their_order(harness: FakeEngineHarness) -> None:
    async with harness.open() as backend:
        harness.engine.calls.clear()
        await backend.start(harness.spec(SERVES))
        steps = [
            *("image", *BUILD, "image", "network", "is_rootless", "remove_network"),
            *("create_network", "network", "create", "attach", "upload", "start", "inspect"),
            "execute",
        ]
        assert harness.engine.calls[: len(steps)] == steps


async def test_what_has_its_name_is_removed(harness: FakeEngineHarness) -> None:
    async with harness.open() as backend:
        spec = harness.spec(SERVES)
        await backend.build(spec.package)
        former = harness.engine.containers_by_name[NAME] = FakeContainer(NAME, {})
        harness.engine.calls.clear()
        await backend.start(spec)
        assert former.removed
        steps = ["create", "remove", "create", "attach"]
        assert [call for call in harness.engine.calls if call in steps] == steps


async def test_a_build_with_nothing_to_do_asks_nobody(harness: FakeEngineHarness) -> None:
    async with harness.open() as backend:
        spec = harness.spec(SERVES)
        await backend.build(spec.package)
        harness.engine.calls.clear()
        await backend.build(spec.package)
        assert harness.engine.calls == []


async def test_an_image_that_has_gone_meanwhile_is_built_again(harness: FakeEngineHarness) -> None:
    stages: list[Stage] = []
    async with harness.open() as backend:
        spec = replace(harness.spec(SERVES), on_stage=stages.append)
        await backend.build(spec.package)
        harness.engine.images_by_name.clear()
        harness.engine.containers_by_name[NAME] = FakeContainer(NAME, {})
        harness.engine.calls.clear()
        await backend.start(spec)
        steps = ["create", "image", *BUILD, "image", "remove", "create"]
        begin = harness.engine.calls.index("create")
        assert harness.engine.calls[begin : begin + len(steps)] == steps
        assert stages == ["build", "create", "upload", "start"]


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        *(("create", StartFailed), ("create!", StartFailed)),
        *(("upload", UploadFailed), ("upload!", UploadFailed)),
        *(("start", StartFailed), ("start!", StartFailed), ("inspect", StartFailed)),
    ],
)
async def test_a_step_that_fails_leaves_nothing(
    harness: FakeEngineHarness, step: str, kind: type[RuntimeFailure]
) -> None:
    async with harness.open() as backend:
        await backend.build(harness.spec(SERVES).package)
        for failure, raised in (
            (EngineRefused(500, "disk full"), kind),
            (RuntimeUnavailable("gone"), RuntimeUnavailable),
        ):
            harness.engine.failures[step] = failure
            with pytest.raises(raised, match=r"disk full|gone"):
                await backend.start(harness.spec(SERVES))
            assert not harness.left()


@pytest.mark.parametrize("step", ["image", *sorted({*BUILD} - {"remove"}), "upload"])
async def test_a_step_that_hangs_can_be_cancelled(
    harness: FakeEngineHarness, step: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with harness.open() as backend:
        harness.engine.hanging.add(step)
        with trio.move_on_after(300) as limit:
            await backend.start(harness.spec(SERVES))
        assert limit.cancelled_caught
        assert not harness.left()


async def test_a_clean_up_that_hangs_is_bounded_and_told(
    harness: FakeEngineHarness,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with harness.open() as backend:
        instance = await backend.start(harness.spec(SERVES))
        harness.engine.hanging.add("remove")
        before = trio.current_time()
        with pytest.raises(RuntimeUnavailable, match=rf"{NAME} of asset:1.0 may still run"):
            await instance.stop()
        assert trio.current_time() - before == start_contract.CLEAN_UP_S
        assert "gave up after 10 s" in caplog.text
        harness.engine.hanging.clear()


async def test_a_removal_is_tried_again(
    harness: FakeEngineHarness, autojump_clock: trio.testing.MockClock
) -> None:
    async with harness.open() as backend:
        instance = await backend.start(harness.spec(SERVES))
        harness.engine.failures["remove"] = EngineRefused(500, "busy")
        await instance.stop()
        assert not harness.left()


async def test_a_removal_that_is_refused_is_an_error(
    harness: FakeEngineHarness, autojump_clock: trio.testing.MockClock
) -> None:
    async def refuse(name: str) -> None:
        raise EngineRefused(500, "device busy")

    async with harness.open() as backend:
        harness.engine.containers_by_name[NAME] = FakeContainer(NAME, {})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(harness.engine, "remove", refuse)
            with pytest.raises(RuntimeUnavailable, match=r"cannot be removed: device busy \(stat"):
                await backend.start(harness.spec(SERVES))


async def test_the_files_go_where_a_volume_is(harness: FakeEngineHarness) -> None:
    async with harness.open() as backend:
        await backend.start(harness.spec(SERVES))
        (container,) = harness.engine.containers_by_name.values()
        assert container.config["Volumes"] == {"/etc/hyperledger/fabric": {}}
        (archive,) = container.files.values()
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            members = tar.getmembers()
        assert [member.name for member in members] == ["/client.crt", "/client.key"]
        assert {member.mode for member in members} == {0o100644}


async def test_the_files_go_to_the_root_where_that_can_be_written(tmp_path: Path) -> None:
    harness = FakeEngineHarness(tmp_path, {"hardening": "off"})
    async with harness.open() as backend:
        await backend.start(harness.spec(SERVES))
        (container,) = harness.engine.containers_by_name.values()
        assert container.files.keys() == {"/"}
        assert "Volumes" not in container.config
        assert container.config["HostConfig"] == {"NetworkMode": "host"}
        await backend.start(replace(harness.spec(SERVES), files={}))
        (container,) = harness.engine.containers_by_name.values()
        assert not container.files


async def test_an_engine_that_goes_away_is_waited_for(
    harness: FakeEngineHarness,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with harness.open() as backend:
        await backend.build(harness.spec(EXITS).package)
        harness.engine.failures["wait"] = RuntimeUnavailable("gone")
        instance = await backend.start(harness.spec(EXITS))
        harness.engine.failures["inspect"] = EngineRefused(500, "")
        assert await instance.wait() == ExitStatus(3)
        assert caplog.text.count("lost sight of asset:1.0") == 1


async def test_a_grace_stop_that_fails_still_removes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    harness = FakeEngineHarness(tmp_path, {"stopGrace": "2s"})
    async with harness.open() as backend:
        instance = await backend.start(harness.spec(SERVES))
        harness.engine.failures["stop"] = EngineRefused(500, "no")
        await instance.stop()
        assert "it is killed" in caplog.text
        assert not harness.left()
        gentle = await backend.start(harness.spec(SERVES))
        await gentle.stop()
        assert await gentle.wait() == ExitStatus(signal=15)


async def test_a_grace_at_the_removal_of_a_leftover(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine()
    engine.containers_by_name["x"] = FakeContainer("x", {})
    engine.failures["stop"] = EngineRefused(500, "no")
    await start_contract.stop_and_remove(engine, "x", 2.0)
    assert not engine.containers_by_name
    assert "it is killed" in caplog.text


async def test_owning(harness: FakeEngineHarness) -> None:
    async with harness.open() as backend:
        instance = await backend.start(harness.spec(SERVES))
        (container,) = harness.engine.containers_by_name.values()
        assert await instance.owns(UnixOrigin(pid=container.pid, uid=0))
        assert await instance.owns(TcpOrigin(("10.0.0.2", 1), ("10.0.0.1", 2)))
        assert await instance.owns(TcpOrigin(("::ffff:10.0.0.2", 1), ("::ffff:10.0.0.1", 2)))
        assert not await instance.owns(TcpOrigin(("10.0.0.3", 1), ("10.0.0.1", 2)))
        container.exit(0)
        await instance.wait()
        assert not await instance.owns(UnixOrigin(pid=container.pid, uid=0))


async def test_owning_on_another_machine() -> None:
    """Its containers show its address, and its process numbers mean nothing here."""
    engine = FakeEngine()
    instance = ContainerInstance(
        ccid="a:1",
        engine=engine,
        name="a",
        output=Output(lambda line: None),
        grace_s=0,
        machine=frozenset({"192.0.2.7"}),
    )
    for addresses in (frozenset({"172.17.0.2"}), frozenset[str]()):
        instance._state = ContainerState(pid=1, oom_killed=False, addresses=addresses)
        assert await instance.owns(TcpOrigin(("192.0.2.7", 1), ("192.0.2.1", 2)))
        assert not await instance.owns(TcpOrigin(("192.0.2.8", 1), ("192.0.2.1", 2)))
        assert await instance.owns(TcpOrigin(("172.17.0.2", 1), ("192.0.2.1", 2))) == bool(
            addresses
        )


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (0, ExitStatus(0)),
        (3, ExitStatus(3)),
        (128, ExitStatus(128)),
        (143, ExitStatus(signal=15)),
        (255, ExitStatus(255)),
    ],
)
def test_exit_codes(code: int, status: ExitStatus) -> None:
    assert exit_status(code, oom_killed=False) == status
    assert exit_status(137, oom_killed=True) == ExitStatus(signal=9, oom_killed=True)


async def test_health(harness: FakeEngineHarness, autojump_clock: trio.testing.MockClock) -> None:
    async with harness.open() as backend:
        harness.engine.failures["ping"] = EngineRefused(503, "starting")
        with pytest.raises(RuntimeUnavailable, match="the engine is ill: starting"):
            await backend.health()
        harness.engine.hanging.add("ping")
        with pytest.raises(RuntimeUnavailable, match="does not answer within 5 s"):
            await backend.health()


def networks(engine: FakeEngine, address: str = "", **options: Any) -> Networks:
    where = EngineAddress(host=address, port=1) if address else EngineAddress(socket="/x.sock")
    return Networks(engine, where, ContainerOptions(**options), name="own", labels={})


async def test_which_network_a_container_joins() -> None:
    engine = FakeEngine()
    assert await networks(engine, network="mine").join("unix:///x") == "mine"
    assert await networks(engine, hardened=False).join("unix:///x") == "host"
    assert await networks(engine).join("unix:///x") == "none"
    assert await networks(engine, "10.0.0.1").join("10.0.0.2:1") == "bridge"
    assert not engine.networks_by_name
    assert await networks(engine).join("10.0.0.2:1") == "own"
    assert engine.networks_by_name["own"] == (True, {})


async def test_where_the_peer_listens() -> None:
    engine = FakeEngine()
    assert await networks(engine, hardened=False).listen_host() == "127.0.0.1"
    assert await networks(engine, network="host").listen_host() == "127.0.0.1"
    assert await networks(engine, "127.0.0.2").listen_host() == "127.0.0.1"
    with pytest.raises(StartFailed, match="NetworkMode none"):
        await networks(engine, network="none").listen_host()
    with pytest.raises(StartFailed, match="network mine does not exist"):
        await networks(engine, network="mine").listen_host()
    await engine.create_network("bridge", internal=False, labels={})
    assert await networks(engine, network="default").listen_host() == "127.0.0.1"


async def test_an_internal_network_without_this_machine_is_no_use() -> None:
    engine = FakeEngine()
    engine.internal_gateway = ""
    own = networks(engine)
    assert await own.listen_host() == "127.0.0.1"
    assert engine.networks_by_name["own"] == (False, {})
    await own.close()
    assert not engine.networks_by_name


async def test_networks_that_cannot_be(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine()
    engine.rootless = True
    with pytest.raises(StartFailed, match="without root"):
        await networks(engine).listen_host()
    engine.rootless = False
    engine.failures["create_network"] = EngineRefused(500, "no more addresses")
    with pytest.raises(StartFailed, match="network own: no more addresses"):
        await networks(engine).listen_host()
    own = networks(engine)
    await own.listen_host()
    engine.failures["remove_network"] = RuntimeUnavailable("gone")
    await own.close()
    assert "could not be removed: gone" in caplog.text


def test_the_name_of_the_own_network() -> None:
    assert own_network_name("dev", "peer0.org1") == "triopeer-dev-peer0.org1"
    assert own_network_name("", "a/b") == "triopeer-a-b"


@pytest.mark.parametrize(
    ("user", "kind", "configured", "sent"),
    [
        ("", "golang", "", "65534:65534"),
        ("0:0", "node", "", "65534:65534"),
        ("chaincode", "golang", "", ""),
        ("", "java", "", ""),
        ("", "golang", "7:7", "7:7"),
    ],
)
def test_who_a_chaincode_runs_as(
    harness: FakeEngineHarness, user: str, kind: str, configured: str, sent: str
) -> None:
    spec = harness.spec(SERVES)
    assert spec.package.image is not None
    plan = container_plan(
        replace(spec, package=replace(spec.package, type=kind)),
        name="c",
        image_name="i",
        image=Image(id="x", user=user, labels={}),
        plan=spec.package.image,
        network="none",
        options=ContainerOptions(user=configured),
        labels={},
    )
    assert plan.config["User"] == sent
    assert ("HOME=/tmp" in plan.config["Env"]) == (sent == "65534:65534")
    assert "secret" not in repr(plan)


def test_a_socket_is_mounted_and_the_chaincode_told_where(harness: FakeEngineHarness) -> None:
    spec = harness.spec(SERVES)
    assert spec.package.image is not None
    plan = container_plan(
        replace(spec, peer_address="unix:///run/x/1.sock"),
        name="c",
        image_name="i",
        image=Image(id="x", user="", labels={}),
        plan=spec.package.image,
        network="none",
        options=ContainerOptions(),
        labels={},
    )
    assert plan.config["Cmd"][-1] == "unix:///run/peer/peer.sock"
    (mount,) = plan.config["HostConfig"]["Mounts"]
    assert mount == {"Type": "bind", "Source": "/run/x/1.sock", "Target": "/run/peer/peer.sock"}


async def test_the_sweep_takes_what_dead_sessions_left_and_nothing_else(tmp_path: Path) -> None:
    harness = FakeEngineHarness(tmp_path)
    here, elsewhere = tmp_path / "lock", tmp_path / "other"
    elsewhere.touch()
    host = socket.gethostname()
    mine = {PEER: "dev.peer0", SESSION: "former"}
    labels = {
        "same place": {**mine, LOCKED_BY: f"{host}:{here}"},
        "gone": {**mine, LOCKED_BY: f"{host}:{tmp_path}/removed"},
        "dead": {**mine, LOCKED_BY: f"{host}:{elsewhere}"},
        "live": {**mine, LOCKED_BY: f"{host}:{tmp_path}/live"},
        "unreadable": {**mine, LOCKED_BY: f"{host}:{elsewhere}/below/a/file"},
        "other machine": {**mine, LOCKED_BY: f"not-{host}:{here}"},
        "other peer": {PEER: "dev.peer1", SESSION: "x", LOCKED_BY: f"{host}:{here}"},
    }
    for name, carried in labels.items():
        harness.engine.containers_by_name[name] = FakeContainer(name, {"Labels": carried})
        harness.engine.networks_by_name[name] = (True, carried)
    with (tmp_path / "live").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        async with harness.open():
            kept = {"live", "unreadable", "other machine", "other peer"}
            assert harness.engine.containers_by_name.keys() == kept
            assert harness.engine.networks_by_name.keys() == kept


async def test_a_sweep_that_is_refused(harness: FakeEngineHarness) -> None:
    harness.engine.failures["containers"] = EngineRefused(500, "sick")
    with pytest.raises(RuntimeUnavailable, match="cannot be removed: sick"):
        async with harness.open():
            pass


def test_a_state_directory_serves_one_session_at_a_time(tmp_path: Path) -> None:
    settings = RuntimeSettings(
        network_id="n", peer_id="p", state_dir=tmp_path, options={}, on_output=lambda *_: None
    )
    with open_session(settings) as session:
        assert session.labels[PEER] == "n.p"
        assert not session.is_left_over(session.labels)
        with pytest.raises(RuntimeUnavailable, match="in use"), open_session(settings):
            pass


async def test_a_request_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang() -> None:
        await trio.sleep_forever()

    async def follow(call: Any) -> None:
        await call()

    monkeypatch.setattr(bridge, "follow", follow)
    monkeypatch.setattr(bridge, "REQUEST_LIMIT_S", 0.01)
    with pytest.raises(RuntimeUnavailable, match="does not answer within"):
        await bridge.request(hang)
