"""The steps of a container's start, and how it is taken away again.

Room:      runtimes.containers   (imports engine; used by instance)
Loop:      Trio
Lifetime:  one start
Fabric:    `DockerVM.Start`, `stopInternal`, core/container/dockercontroller/dockercontroller.go
           (release-2.5)
"""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from runtimes.api import (
    ReportStage,
    RuntimeFailure,
    RuntimeUnavailable,
    StartFailed,
    UploadFailed,
    unreported,
)
from runtimes.containers.engine import (
    ContainerState,
    Engine,
    EngineRefused,
    ImageMissing,
    NameTaken,
)
from runtimes.upload import pack_files

log = logging.getLogger("runtimes.containers")

CLEAN_UP_S = 10.0
"""How long the clean-up after a start that failed or was cancelled may take."""


REMOVE_AGAIN_S = (0.05, 0.2, 0.5)
"""Pauses before a removal is tried again: an engine may be busy with that container itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerPlan:
    """All that one start needs.

    Attributes:
        name: of the container.
        config: as the engine's API wants it.
        files: absolute path in the container → content.
        has_readonly_root: files go only where a volume is.
        on_stage: hears how the start proceeds.
    """

    name: str
    config: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    has_readonly_root: bool = False
    on_stage: ReportStage = field(default=unreported, repr=False, compare=False)


Build = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Started:
    """A container that has been started.

    Attributes:
        output: all it writes, from the first byte on.
        state: how it was right after the start; None if somebody has removed it already.
    """

    output: trio.abc.ReceiveStream
    state: ContainerState | None


async def start_container(engine: Engine, plan: ContainerPlan, build: Build) -> Started:
    """Start a container; one that has its name is removed.

    Args:
        build: makes the image, if it turns out to be missing.

    Raises:
        StartFailed, UploadFailed: the engine refuses a step.
        BuildFailed: the image was missing and cannot be built.
        RuntimeUnavailable: the engine does not answer.

    Cancellation: leaves nothing of this start behind, like every failure.
    """
    name = plan.name
    output: trio.abc.ReceiveStream | None = None
    try:
        with _refusal(f"cannot create container {name}"):
            await create(engine, name, plan.config, build)
        with _refusal(f"cannot attach to container {name}"):
            output = await engine.attach(name)
        with _refusal(f"cannot upload files to container {name}", UploadFailed):
            for directory, archive in uploads(plan):
                plan.on_stage("upload")
                await engine.upload(name, directory, archive)
        plan.on_stage("start")
        with _refusal(f"cannot start container {name}"):
            await engine.start(name)
            # at once, while the chaincode is on its way: it is needed when that has arrived
            return Started(output, await engine.inspect(name))
    except BaseException:  # Cancelled too: nothing may be left behind
        if output is not None:
            await trio.aclose_forcefully(output)
        await clean_up(engine, name)  # by name: an attempt that failed may have succeeded unseen
        raise


async def create(engine: Engine, name: str, config: Mapping[str, Any], provide: Build) -> None:
    """Create a container, in place of one that has its name.

    Args:
        provide: makes or gets the image, if it is missing.

    Raises:
        EngineRefused: the engine cannot do it.
        RuntimeUnavailable: the former one cannot be removed, or the engine does not answer.
    """
    try:
        return await engine.create(name, config)
    except ImageMissing:
        await provide()
    except NameTaken as exc:
        log.debug("%s", exc)
    await stop_and_remove(engine, name)
    await engine.create(name, config)


async def stop_and_remove(engine: Engine, name: str, grace_s: float = 0.0) -> None:
    """Stop with a grace, kill, remove. What is not there, or has stopped already, is fine.

    Raises:
        RuntimeUnavailable: it cannot be removed, or the engine does not answer.
    """
    try:
        if grace_s:
            await engine.stop(name, grace_s)
    except EngineRefused as exc:
        log.warning("stop of container %s failed, it is killed: %s", name, exc)
    for pause in (*REMOVE_AGAIN_S, None):
        try:
            return await engine.remove(name)
        except EngineRefused as exc:
            if pause is None:
                raise RuntimeUnavailable(f"container {name} cannot be removed: {exc}") from exc
            log.warning("container %s is not removed yet: %s", name, exc)
        await trio.sleep(pause)


async def clean_up(engine: Engine, name: str) -> bool:
    """Remove a container; log and return False if it cannot be done.

    Cancellation: shielded and bounded.
    """
    with trio.move_on_after(CLEAN_UP_S, shield=True):
        try:
            await stop_and_remove(engine, name)
            return True
        except RuntimeFailure as exc:
            log.error("%s; the next start tries again", exc)
            return False
    log.error("removal of container %s gave up after %g s", name, CLEAN_UP_S)
    return False


def uploads(plan: ContainerPlan) -> Iterator[tuple[str, bytes]]:
    """Yield directories and archives: one at ``/``, or one per volume below a read-only root."""
    if not plan.has_readonly_root:
        if plan.files:
            yield "/", pack_files(plan.files)
        return
    for directory in volumes(plan.files):
        here = {
            f"/{posixpath.basename(path)}": content
            for path, content in plan.files.items()
            if posixpath.dirname(path) == directory
        }
        yield directory, pack_files(here)


def volumes(files: Mapping[str, bytes]) -> list[str]:
    """Return the directories that must be volumes to be written below a read-only root."""
    return sorted({posixpath.dirname(path) for path in files})


@contextmanager
def _refusal(what: str, error: type[StartFailed] = StartFailed) -> Iterator[None]:
    try:
        yield
    except EngineRefused as exc:
        raise error(f"{what}: {exc}") from exc
