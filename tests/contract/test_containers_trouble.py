"""Containers when something goes wrong: at every step of a start, and while chaincode runs."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from runtimes.api import (
    BuildFailed,
    ExitStatus,
    InstanceSpec,
    RuntimeFailure,
    RuntimeUnavailable,
    StartFailed,
    UploadFailed,
)
from runtimes.containers import bridge, start_contract
from runtimes.containers.client import EngineClient
from runtimes.containers.engine import EngineRefused
from tests.contract.containers import FILES, ContainerHarness, image
from tests.contract.harness import LIMIT_S, SERVES, until

ROOT = Path(__file__).parents[2]
STEPS = ("create", "attach", "upload", "start")

engines = pytest.mark.parametrize("harness", ["docker", "podman"], indirect=True)


def spec_with_files(harness: ContainerHarness) -> InstanceSpec:
    return replace(harness.spec(SERVES), files=FILES)


def fresh(harness: ContainerHarness, script: str) -> InstanceSpec:
    """Return what starts a chaincode whose image has yet to be built."""
    base = harness.house.engine.images["base"]
    spec = harness.spec(SERVES, f"built:{harness.mark}")
    plan = image(base, script, ("/bin/sh", "-c", SERVES))
    return replace(spec, package=replace(spec.package, image=plan))


@engines
async def test_a_start_cancelled_before_or_in_any_request_leaves_nothing(
    harness: ContainerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow = bridge.follow
    crossings = 0
    cancel_at = 0

    async def counted(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal crossings
        crossings += 1
        if crossings == cancel_at:
            scope.cancel()
        return await follow(call, *args, **kwargs)

    async with harness.open() as backend:
        spec = spec_with_files(harness)
        await backend.build(spec.package)
        monkeypatch.setattr(bridge, "follow", counted)
        for cancel_at in itertools.count(1):
            crossings = 0
            with trio.CancelScope() as scope:
                instance = await backend.start(spec)
                break
            assert not harness.left(), f"cancelled at crossing {cancel_at}"
        assert cancel_at > len(STEPS)
        monkeypatch.undo()
        await instance.stop()
        assert not harness.left()


@engines
@pytest.mark.parametrize("effect", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
async def test_a_step_that_fails_leaves_nothing(
    harness: ContainerHarness, monkeypatch: pytest.MonkeyPatch, step: str, effect: bool
) -> None:
    method = getattr(EngineClient, step)
    failure: Exception = EngineRefused(500, "disk full")

    async def fail(self: EngineClient, *args: Any) -> Any:
        if effect:
            result = await method(self, *args)
            if step == "attach":
                await result.aclose()
        raise failure

    async with harness.open() as backend:
        spec = spec_with_files(harness)
        await backend.build(spec.package)
        with monkeypatch.context() as patch:
            patch.setattr(EngineClient, step, fail)
            kind = UploadFailed if step == "upload" else StartFailed
            with pytest.raises(kind, match=rf"{step}.*disk full \(status 500\)"):
                await backend.start(spec)
            assert not harness.left()
            failure = RuntimeUnavailable("gone")
            with pytest.raises(RuntimeUnavailable, match="gone"):
                await backend.start(spec)
        assert not harness.left()
        await backend.start(spec)  # the next one works


@engines
@pytest.mark.parametrize(
    "step",
    [*(f"{step}{when}" for step in ("build", *STEPS) for when in ("", "!")), "started"],
)
async def test_what_a_killed_peer_left_is_swept_by_its_next_start(
    harness: ContainerHarness, step: str
) -> None:
    house = harness.house
    program = Path(__file__).with_name("killed_container_peer.py")
    peer = await trio.lowlevel.open_process(
        [
            *(sys.executable, program, house.engine.name, house.engine.endpoint),
            *(house.engine.images["base"], house.peer_id, harness.state_dir, harness.socket),
            *(harness.mark, step),
        ],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"},
        stdout=subprocess.DEVNULL,
    )
    with trio.fail_after(LIMIT_S):
        assert await peer.wait() == -signal.SIGKILL
    assert bool(harness.left()) == (step not in ("build", "build!", "create"))
    async with harness.open():
        assert not harness.left()


@engines
async def test_another_live_peer_of_the_same_name_keeps_its_containers(
    harness: ContainerHarness, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = ContainerHarness(harness.house, tmp_path / "other")
    with other.listening:
        async with harness.open() as backend:
            await backend.start(harness.spec(SERVES))
            async with other.open():
                assert len(harness.left()) == 1


@engines
async def test_an_exit_by_memory_is_told(harness: ContainerHarness) -> None:
    harness.options[harness.house.engine.name]["hostConfig"] |= {
        "Memory": 64 << 20,
        "MemorySwap": 64 << 20,
    }
    async with harness.open() as backend:
        instance = await backend.start(harness.spec("#!python\nx = b'x' * (1 << 30)"))
        with trio.fail_after(LIMIT_S):
            status = await instance.wait()
        assert status.signal == 9
        # Podman itself does not tell on version 1 of control groups
        assert status.oom_killed or harness.house.engine.name == "podman"


@engines
async def test_a_container_removed_by_hand_is_an_exit(harness: ContainerHarness) -> None:
    async with harness.open() as backend:
        instance = await backend.start(harness.spec(SERVES))
        (container,) = harness.left()
        harness.house.call("DELETE", f"/containers/{container}?force=true")
        with trio.fail_after(LIMIT_S):
            assert await instance.wait() == ExitStatus(signal=9)
        await instance.stop()
        await backend.start(harness.spec(SERVES))
        assert len(harness.left()) == 1


@engines
async def test_a_command_that_does_not_exist(harness: ContainerHarness) -> None:
    spec = harness.spec(SERVES)
    assert spec.package.image is not None
    plan = replace(spec.package.image, command=("/no/such/program",))
    spec = replace(spec, package=replace(spec.package, image=plan))
    async with harness.open() as backend:
        with pytest.raises(StartFailed, match="/no/such/program"):
            await backend.start(spec)
        assert not harness.left()


@engines
async def test_a_failed_build_shows_its_last_output(harness: ContainerHarness) -> None:
    spec = fresh(harness, "echo compiling; echo undefined symbol; exit 7")
    async with harness.open() as backend:
        with pytest.raises(BuildFailed, match=r"(?s)7.*undefined symbol"):
            await backend.build(spec.package)
        assert any("compiling" in line for _, line in harness.lines)
        with pytest.raises(BuildFailed):
            await backend.start(spec)
    assert not harness.left()


@engines
async def test_a_build_that_is_cancelled_ends(harness: ContainerHarness) -> None:
    before = set(running(harness))
    spec = fresh(harness, "echo begun; sleep 1000")
    async with harness.open() as backend:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(backend.build, spec.package)
                await until(lambda: any("begun" in line for _, line in harness.lines))
                scope.cancel()
        await until(lambda: set(running(harness)) <= before)
        assert scope.cancelled_caught


def running(harness: ContainerHarness) -> list[str]:
    listed = harness.house.call("GET", "/containers/json?all=true")
    return [container["Id"] for container in listed]


@engines
async def test_an_unchanged_package_is_not_built_again(harness: ContainerHarness) -> None:
    async with harness.open() as backend:
        spec = fresh(harness, "echo once")
        await backend.build(spec.package)
        assert harness.lines
        harness.lines.clear()
        await backend.build(spec.package)
        assert not harness.lines
        before = harness.house.images()
        await backend.build(fresh(harness, "echo twice").package)
        assert any("twice" in line for _, line in harness.lines)
        assert len(harness.house.images()) == len(before)


@asynccontextmanager
async def relay(path: Path, target: str) -> AsyncIterator[Callable[[], Any]]:
    """Stand between peer and engine; what it gives switches the way off, and on again."""
    accepting = trio.CancelScope()

    async def carry(stream: trio.SocketStream) -> None:
        async with await trio.open_unix_socket(target) as engine, trio.open_nursery() as both:

            async def copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
                with trio.CancelScope() as scope:
                    try:
                        async for chunk in source:
                            await sink.send_all(chunk)
                        await sink.send_eof()
                    except (trio.BrokenResourceError, trio.ClosedResourceError):
                        scope.cancel()

            both.start_soon(copy, stream, engine)
            both.start_soon(copy, engine, stream)

    async def serve(*, task_status: trio.TaskStatus[None]) -> None:
        sock = trio.socket.socket(trio.socket.AF_UNIX)
        await sock.bind(str(path))
        sock.listen()
        nonlocal accepting
        with trio.CancelScope() as accepting, sock:
            task_status.started()
            await trio.serve_listeners(carry, [trio.SocketListener(sock)])
        path.unlink()

    async with trio.open_nursery() as nursery:

        async def switch() -> None:
            if path.exists():
                accepting.cancel()
                await until(lambda: not path.exists())
            else:
                await nursery.start(serve)

        await switch()
        yield switch
        nursery.cancel_scope.cancel()


@engines
async def test_an_engine_that_goes_away_and_comes_back(
    harness: ContainerHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start_contract, "CLEAN_UP_S", 2.0)
    house = harness.house
    door = tmp_path / "engine.sock"
    harness.options["endpoint"] = f"unix://{door}"
    async with relay(door, str(house.engine.endpoint).removeprefix("unix://")) as switch:
        async with harness.open() as backend:
            kept = await backend.start(harness.spec(SERVES, "kept:1"))
            lost = await backend.start(harness.spec(SERVES, "lost:1"))
            await switch()
            with pytest.raises(RuntimeUnavailable, match="no answer from the engine at unix://"):
                await backend.health()
            with pytest.raises(RuntimeUnavailable):
                await backend.start(harness.spec(SERVES, "new:1"))
            with pytest.raises(RuntimeUnavailable, match="may still run"):
                await lost.stop()
            assert len(harness.left()) == 2
            await switch()
            await backend.health()
            await backend.start(harness.spec(SERVES, "lost:1"))  # it removes the one before
            assert len(harness.left()) == 2
            await kept.stop()
            assert len(harness.left()) == 1
        assert not harness.left()


@engines
async def test_without_an_engine_there_is_no_backend(
    harness: ContainerHarness, tmp_path: Path
) -> None:
    harness.options["endpoint"] = f"unix://{tmp_path}/nothing.sock"
    with pytest.raises(RuntimeFailure, match=r"nothing\.sock \(vm\.endpoint\)"):
        async with harness.open():
            pass
