"""What a build leaves on a real engine, and when images go."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from runtimes.api import BuildFailed, InstanceSpec, RuntimeBackend
from runtimes.containers import bridge
from tests.contract.containers import ContainerHarness, image, steps_spec
from tests.contract.harness import LIMIT_S, processes_with, until
from tests.contract.test_containers_start import output_of

ROOT = Path(__file__).parents[2]
FAILS = "echo begun; exit 7"
LASTS = "echo begun; sleep 1000"

engines = pytest.mark.parametrize("harness", ["docker", "podman"], indirect=True)


def built(
    harness: ContainerHarness, script: str, run: str = "true", ccid: str = ""
) -> InstanceSpec:
    """Return what starts a chaincode whose build does as a script says."""
    spec = harness.spec(run, ccid or f"built:{harness.mark}")
    plan = image(harness.house.engine.images["base"], script, ("/bin/sh", "-c", run))
    plan = replace(plan, build_env={"BUILD_OF": harness.house.peer_id})
    return replace(spec, package=replace(spec.package, image=plan))


class Traces:
    """What there is on an engine because of a harness, and which images have no name."""

    def __init__(self, harness: ContainerHarness) -> None:
        self._harness = harness
        self._volumes: set[str] = set()
        self._images = self.images()

    def images(self) -> set[str]:
        """Return the images of this peer, those without a name among them."""
        listed = self._harness.house.listed("/images/json?all=true&")
        return {found["Id"] for found in listed}

    def note_volumes(self) -> None:
        """Remember the volumes of the container of a build that runs."""
        mounts = self._harness.inspect()["Mounts"]
        self._volumes |= {mount["Name"] for mount in mounts if mount["Type"] == "volume"}

    async def nothing_but(self, images: int) -> None:
        """No container, volume or process; and so many new images."""
        house = self._harness.house
        assert house.containers() == []
        for volume in self._volumes:
            assert house.engine.request("GET", f"/volumes/{volume}")[0] == 404
        await until(lambda: not processes_with(house.peer_id))
        assert len(self.images() - self._images) == images


@engines
async def test_a_build_leaves_its_image_alone(harness: ContainerHarness) -> None:
    traces = Traces(harness)
    async with harness.open() as backend:
        await backend.build(built(harness, "true").package)
        await traces.nothing_but(images=1)
        await backend.build(built(harness, "echo changed").package)
        await traces.nothing_but(images=1)  # it took the place of the one before


@engines
async def test_a_build_that_fails_leaves_nothing(harness: ContainerHarness) -> None:
    traces = Traces(harness)
    async with harness.open() as backend:
        with pytest.raises(BuildFailed, match=r"its build ended: exit code 7\nbegun"):
            await backend.build(built(harness, FAILS).package)
        await traces.nothing_but(images=0)
        package = built(harness, "rmdir /chaincode/output").package
        assert package.image is not None
        plan = replace(package.image, builder=harness.house.engine.images["python"])  # as root
        with pytest.raises(BuildFailed, match=r"left nothing in /chaincode/output: .*404"):
            await backend.build(replace(package, image=plan))
        await traces.nothing_but(images=0)


@engines
async def test_a_build_that_is_cancelled_while_it_runs_leaves_nothing(
    harness: ContainerHarness,
) -> None:
    traces = Traces(harness)
    async with harness.open() as backend:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(backend.build, built(harness, LASTS).package)
            await until(lambda: harness.lines)
            assert processes_with(harness.house.peer_id)
            traces.note_volumes()
            assert traces._volumes
            nursery.cancel_scope.cancel()
        await traces.nothing_but(images=0)


@engines
async def test_a_build_that_is_cancelled_at_any_request_leaves_nothing(
    harness: ContainerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow = bridge.follow
    crossings = cancel_at = 0

    async def counted(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal crossings
        crossings += 1
        if crossings == cancel_at:
            scope.cancel()
        return await follow(call, *args, **kwargs)

    async with harness.open() as backend:
        monkeypatch.setattr(bridge, "follow", counted)
        for cancel_at in itertools.count(1):
            crossings = 0
            traces = Traces(harness)
            with trio.CancelScope() as scope:
                await backend.build(built(harness, f"echo {cancel_at}").package)
                break
            assert harness.house.containers() == [], f"cancelled at crossing {cancel_at}"
        assert cancel_at > len(("create", "fill", "attach", "start", "wait", "fetch", "commit"))
        monkeypatch.undo()
        await backend.prune(set())  # of those cancelled after the last step
        assert traces.images() == set()


@engines
async def test_a_peer_killed_while_it_builds_leaves_nothing_to_its_next_start(
    harness: ContainerHarness,
) -> None:
    traces = Traces(harness)
    await killed(harness, until_found=lambda: processes_with(harness.house.peer_id), run=LASTS)
    assert len(harness.left()) == 1
    traces.note_volumes()
    assert traces._volumes
    harness.options[harness.house.engine.name]["leftovers"] = "keep"  # a build is no chaincode
    async with harness.open():
        await traces.nothing_but(images=0)


async def killed(
    harness: ContainerHarness, until_found: Callable[[], object], run: str = "true"
) -> None:
    """Kill a peer as soon as something can be found that it has made."""
    arguments = {
        "engine": harness.house.engine.name,
        "endpoint": harness.house.engine.endpoint,
        "state": str(harness.state_dir),
        "base": harness.house.engine.images["base"],
        "peer_id": harness.house.peer_id,
        "mark": harness.mark,
        "built": harness.mark,
        "run": run,
    }
    program = str(Path(__file__).with_name("killed_container_peer.py"))
    peer = await trio.lowlevel.open_process(
        [sys.executable, program, json.dumps(arguments)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"},
        stdout=subprocess.DEVNULL,
    )
    await until(until_found)
    peer.kill()
    with trio.fail_after(LIMIT_S):
        assert await peer.wait() == -signal.SIGKILL


@engines
async def test_a_container_kept_for_inspection(harness: ContainerHarness) -> None:
    """It stays over starts of the peer, until the chaincode is launched or its package goes."""
    spec = steps_spec(
        base=harness.house.engine.images["base"],
        peer_id=harness.house.peer_id,
        mark=harness.mark,
        built=harness.mark,
        run="true",
    )

    async def kill_and_keep() -> str:
        await killed(harness, until_found=chaincodes)
        (container,) = chaincodes()
        for _ in range(2):
            async with harness.open():
                assert chaincodes() == [container]
        return container

    def chaincodes() -> list[str]:
        listed = harness.house.listed("/containers/json?")
        return [found["Id"] for found in listed if "triopeer-build" not in found["Names"][0]]

    harness.options[harness.house.engine.name]["leftovers"] = "keep"
    kept = await kill_and_keep()
    async with harness.open() as backend:
        await backend.start(spec)
        (launched,) = chaincodes()
        assert launched != kept
    await kill_and_keep()
    async with harness.open() as backend:
        await backend.prune(set())
        assert harness.left() == []
        assert harness.house.networks() == []


MAKES = """\
cd /chaincode/output
mkdir deep
echo "echo run by $(id -u)" > deep/run
chmod 750 deep/run
ln deep/run hard
ln -s deep/run soft
"""
RUNS = """\
cd /usr/local/src
stat -c '%n %a %u:%g' . deep/run hard
stat -c '%h' hard
readlink soft
stat -c %a /usr/local
"""


@engines
async def test_what_a_build_makes_arrives(harness: ContainerHarness) -> None:
    lines = await output_of(harness, built(harness, MAKES, RUNS))
    assert lines == (". 755 0:0", "deep/run 750 0:0", "hard 750 0:0", "2", "deep/run", "755")


@engines
async def test_a_place_that_the_image_lacks_is_made(harness: ContainerHarness) -> None:
    spec = built(harness, "echo x > /chaincode/output/x", "stat -c '%a %u' /new /new/place")
    assert spec.package.image is not None
    plan = replace(spec.package.image, target="/new/place")
    spec = replace(spec, package=replace(spec.package, image=plan))
    assert await output_of(harness, spec) == ("755 0", "755 0")


@engines
async def test_the_image_says_what_it_is(harness: ContainerHarness) -> None:
    spec = built(harness, "true")
    assert spec.package.image is not None
    plan = replace(
        spec.package.image,
        env={"CORE_CHAINCODE_BUILDLEVEL": "9"},
        labels={"org.hyperledger.fabric.version": "9"},
    )
    async with harness.open() as backend:
        await backend.build(replace(spec.package, image=plan))
        (found,) = harness.house.listed("/images/json?", f"io.triopeer.ccid={spec.ccid}")
        config = harness.house.call("GET", f"/images/{found['Id']}/json")["Config"]
        assert "CORE_CHAINCODE_BUILDLEVEL=9" in config["Env"]
        assert config["Labels"]["org.hyperledger.fabric.version"] == "9"
        assert config["User"] == "chaincode"  # that of the image it is made from


@engines
async def test_an_image_that_cannot_be_pulled(harness: ContainerHarness) -> None:
    spec = built(harness, "true")
    assert spec.package.image is not None
    plan = replace(spec.package.image, builder="localhost:1/nothing")
    traces = Traces(harness)
    async with harness.open() as backend:
        with pytest.raises(BuildFailed, match=r"cannot use localhost:1/nothing: .*refused"):
            await backend.build(replace(spec.package, image=plan))
        await traces.nothing_but(images=0)


@engines
async def test_images_go_with_their_packages(harness: ContainerHarness) -> None:
    def images_of(*ccids: str) -> list[bool]:
        labels = [f"io.triopeer.ccid={ccid}" for ccid in ccids]
        return [bool(harness.house.listed("/images/json?", label)) for label in labels]

    async def build(backend: RuntimeBackend, *ccids: str) -> None:
        for ccid in ccids:
            await backend.build(built(harness, "true", ccid=ccid).package)

    gone, kept, runs = (f"{name}:{harness.mark}" for name in ("gone", "kept", "runs"))
    async with harness.open() as backend:
        await build(backend, gone, kept)
        await backend.start(built(harness, "true", "exec sleep 1000", ccid=runs))
        await backend.prune({kept})
        assert images_of(gone, kept, runs) == [False, True, True]
        await build(backend, gone)
        assert images_of(gone) == [True]
    async with harness.open() as backend:  # what sessions before this one made
        await backend.prune({kept})
        assert images_of(gone, kept, runs) == [False, True, False]
        await backend.prune(set())
        assert harness.house.images() == []
