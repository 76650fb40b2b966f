"""A spare waits to be the next chaincode; whatever becomes of it, the next chaincode starts."""

from __future__ import annotations

import errno
import logging
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from runtimes.api import InstanceSpec, RuntimeBackend
from runtimes.process import zygotes
from tests.contract.harness import (
    LIMIT_S,
    ProcessHarness,
    cancelled_at_step,
    inside,
    keepers,
    pids_of,
    python,
    settled,
    until,
    with_spare,
)
from tests.contract.test_process_zygote import FORKED, SERVES


def named(spec: InstanceSpec, number: int) -> InstanceSpec:
    return replace(spec, package=replace(spec.package, ccid=f"asset:{number}"))


async def test_it_becomes_the_next_chaincode_and_another_one_waits(
    harness: ProcessHarness,
) -> None:
    spec = python(harness, SERVES)
    async with harness.open() as backend:
        spares = []
        for number in range(3):
            spares.append(await with_spare(backend, spec))
            await backend.start(named(spec, number))
            assert pids_of("chaincode") >= set(spares)
        await until(lambda: len(harness.lines) == 3)
        assert {line for _, line in harness.lines} == {"True"}
        assert pids_of("chaincode") == set(spares)
        await with_spare(backend, spec)
    assert not harness.left()
    assert not harness.directories()


async def test_of_many_at_once_one_was_the_spare(harness: ProcessHarness) -> None:
    spec = python(harness, SERVES)
    async with harness.open() as backend:
        spare = await with_spare(backend, spec)
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(backend.start, named(spec, number))
        await until(lambda: len(harness.lines) == 6)
        assert {line for _, line in harness.lines} == {"True"}
        assert spare in pids_of("chaincode")
        assert len(pids_of("chaincode")) == 6
        await until(lambda: len(pids_of("spare")) == 1)
    assert not harness.left()


async def test_it_waits_without_anything_of_a_chaincode(harness: ProcessHarness) -> None:
    spec = python(harness, SERVES)
    async with harness.open() as backend:
        await backend.start(named(spec, 1))
        spare = await with_spare(backend, spec)
        (zygote,) = pids_of("zygote")
        assert os.readlink(f"/proc/{spare}/cwd") == os.readlink(f"/proc/{zygote}/cwd")
        status = Path(f"/proc/{spare}/status").read_text()
        caught = [line for line in status.splitlines() if line.startswith("SigCgt")]
        assert caught[0] in Path(f"/proc/{zygote}/status").read_text()


# in trouble


async def runs_after(backend: RuntimeBackend, harness: ProcessHarness, spare: int) -> None:
    """Start a chaincode that is forked, but is not that spare, and see that there is another."""
    instance = await backend.start(python(harness, SERVES))
    await until(lambda: instance.tail() == ("True",))
    assert spare not in pids_of("chaincode")
    await until(lambda: pids_of("spare") - {spare})
    await instance.stop()


async def test_one_that_was_killed_is_replaced(harness: ProcessHarness) -> None:
    async with harness.open() as backend:
        spare = await with_spare(backend, python(harness, SERVES))
        zygote = pids_of("zygote")
        os.kill(spare, signal.SIGKILL)
        await until(lambda: not pids_of("spare"))
        await runs_after(backend, harness, spare)
        assert pids_of("zygote") == zygote
    assert not harness.left()


async def test_one_that_hangs_ends_with_its_zygote(
    harness: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with harness.open() as backend:
        spare = await with_spare(backend, python(harness, SERVES))
        zygote = pids_of("zygote")
        os.kill(spare, signal.SIGSTOP)
        monkeypatch.setattr(zygotes, "ANSWER_LIMIT_S", 0.3)
        instance = await backend.start(python(harness, SERVES))  # by exec on a slow machine
        await until(lambda: spare not in pids_of("spare"))
        assert not zygote & pids_of("zygote")
        assert spare not in pids_of("chaincode")
        await instance.stop()
    assert not harness.left()


async def test_it_ends_with_its_zygote(harness: ProcessHarness) -> None:
    async with harness.open() as backend:
        spare = await with_spare(backend, python(harness, SERVES))
        (zygote,) = pids_of("zygote")
        os.kill(zygote, signal.SIGKILL)
        await until(lambda: not pids_of("spare"))
        await runs_after(backend, harness, spare)
    assert not harness.left()


async def test_it_ends_with_the_keeper(harness: ProcessHarness) -> None:
    async with harness.open() as backend:
        await with_spare(backend, python(harness, SERVES))
        await until(lambda: len(harness.left()) == 2)
        (keeper,) = keepers()
        os.kill(keeper, signal.SIGKILL)
        await until(lambda: not harness.left())


FAIL = """
import os
def fail():
    open({told!r}, "a").close()
    raise OSError({code}, "no")
"""
IN_THE_MIDDLE = """
def fork(first=os.fork, zygote=os.getpid()):
    return first() if os.getpid() == zygote else fail()
os.fork = fork
"""


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("import shim.rehearsal\nshim.rehearsal.rehearse = fail\n", ""),
        ("os.fork = fail\n", "is not forked: fork: no"),
        (IN_THE_MIDDLE, f"is not forked: fork: {os.strerror(errno.EAGAIN)}"),
    ],
)
async def test_without_one_a_chaincode_is_forked_or_executed(
    harness: ProcessHarness,
    environment: Path,
    caplog: pytest.LogCaptureFixture,
    broken: str,
    reason: str,
) -> None:
    caplog.set_level(logging.INFO, "runtimes.process")
    told = harness.directory / "told"
    site = environment / "sitecustomize.py"
    site.write_text(FAIL.format(told=str(told), code=errno.EAGAIN) + broken)
    await until(lambda: settled(site))
    spec = inside(python(harness, f"{FORKED}print(forked)"), environment)
    async with harness.open() as backend:
        await backend.build(replace(spec.package, env=spec.env))
        await until(told.exists)
        instance = await backend.start(spec)
        with trio.fail_after(LIMIT_S):
            await instance.wait()
        assert instance.tail() == (str(not reason),)
        assert reason in caplog.text
        await instance.stop()
    assert not harness.left()


REHEARSE = """
import os, pathlib, shim.rehearsal, signal, time
def rehearse(told=pathlib.Path({told!r}), go=pathlib.Path({go!r})):
    told.touch()
    while not go.exists():
        time.sleep(0.01)
    {end}
shim.rehearsal.rehearse = rehearse
"""
NEVER = "signal.alarm(signal.alarm(0) and 1); signal.pause()"
"""Blocks, and shortens the limit if there is one."""


@pytest.mark.parametrize("end", ["pass", "raise OSError", NEVER])
async def test_one_that_has_not_rehearsed_gets_no_request(
    harness: ProcessHarness, environment: Path, end: str
) -> None:
    told, go = harness.directory / "told", harness.directory / "go"
    site = environment / "sitecustomize.py"
    site.write_text(REHEARSE.format(told=str(told), go=str(go), end=end))
    await until(lambda: settled(site))
    spec = inside(python(harness, SERVES), environment)
    async with harness.open() as backend:
        await backend.build(replace(spec.package, env=spec.env))
        await until(lambda: told.exists() and pids_of("spare"))
        zygote, (spare,) = pids_of("zygote"), pids_of("spare")
        for number in range(2):
            await backend.start(named(spec, number))
            go.touch()  # the first spare is passed over, the next ones are as good as their end
            await until(lambda: spare not in pids_of("spare"))
        await until(lambda: len(harness.lines) == 2)
        assert {line for _, line in harness.lines} == {"True"}
        assert spare not in pids_of("chaincode")
        assert pids_of("zygote") == zygote
    assert not harness.left()


LACKING = """
import sys
class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name == "shim.rehearsal":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Lacking())
"""


async def test_a_library_that_cannot_rehearse_is_forked_without_a_spare(
    harness: ProcessHarness, environment: Path
) -> None:
    site = environment / "sitecustomize.py"
    site.write_text(LACKING)
    await until(lambda: settled(site))
    spec = inside(python(harness, f"{FORKED}print(forked)\nimport shim.rehearsal"), environment)
    async with harness.open() as backend:
        instance = await backend.start(spec)
        with trio.fail_after(LIMIT_S):
            await instance.wait()
        said = instance.tail()
        assert (said[0], said[-1]) == ("True", "ModuleNotFoundError: shim.rehearsal")
        await instance.stop()
    assert not harness.left()


async def test_a_start_that_is_cancelled_at_any_step_leaves_one_spare(
    harness: ProcessHarness,
) -> None:
    spec = python(harness, SERVES)
    step = 1
    async with harness.open() as backend:
        while True:
            await with_spare(backend, spec)
            if await cancelled_at_step(step, lambda: backend.start(spec)):
                break
            await until(lambda: not pids_of("chaincode"))
            await until(lambda: len(harness.directories()) == 1)
            step += 1
    assert step > 10
    assert not harness.left()
