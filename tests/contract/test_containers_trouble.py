"""Containers when something goes wrong: cancelled requests, and trouble while chaincode runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
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
)
from runtimes.containers import bridge, start_contract
from tests.contract.containers import FILES, ContainerHarness, image
from tests.contract.harness import LIMIT_S, SERVES, until
from tests.engines.relay import open_relay

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
        assert cancel_at > 4  # create, attach, upload, start
        monkeypatch.undo()
        await instance.stop()
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


@engines
async def test_an_engine_that_goes_away_and_comes_back(
    harness: ContainerHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start_contract, "CLEAN_UP_S", 2.0)
    house = harness.house
    door = tmp_path / "engine.sock"
    async with open_relay(door, house.engine.endpoint) as relay:
        harness.options["endpoint"] = relay.endpoint
        async with harness.open() as backend:
            kept = await backend.start(harness.spec(SERVES, "kept:1"))
            lost = await backend.start(harness.spec(SERVES, "lost:1"))
            relay.shut()
            with pytest.raises(RuntimeUnavailable, match="no answer from the engine at unix://"):
                await backend.health()
            with pytest.raises(RuntimeUnavailable):
                await backend.start(harness.spec(SERVES, "new:1"))
            with pytest.raises(RuntimeUnavailable, match="may still run"):
                await lost.stop()
            assert len(harness.left()) == 2
            await relay.open()
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
