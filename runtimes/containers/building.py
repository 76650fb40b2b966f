"""Make the image of a package: build its code in one container, put the result into another.

Room:      runtimes.containers   (imports engine, start_contract; used by runtime)
Loop:      Trio; archives are rewritten in threads
Lifetime:  one build
Fabric:    `DockerBuild`, core/chaincode/platforms/util/utils.go (release-2.5)

Fabric has the engine build the second half, from a Dockerfile. Engines leave images without a name
behind such builds, and Podman lets the programs of one that was cancelled run on. A container can
be labelled, removed at any moment and found again after a crash.
"""

from __future__ import annotations

import io
import posixpath
import tarfile
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, BinaryIO, cast

import trio

from runtimes.api import BUILD_INPUT, BUILD_OUTPUT, BuildFailed, ImagePlan
from runtimes.containers.engine import Engine, EngineRefused, Labels, PullFailed
from runtimes.containers.instance import exit_status
from runtimes.containers.start_contract import clean_up, create
from runtimes.output import Output

_TARGET_MODE = 0o755


async def build_image(
    engine: Engine,
    name: str,
    plan: ImagePlan,
    *,
    image_labels: Labels,
    container_labels: Labels,
    on_line: Callable[[str], None],
) -> None:
    """Build an image; one that had the name before loses it.

    Args:
        image_labels: of the image, and of the container it is made of.
        container_labels: of the container the code is built in.
        on_line: hears every line of output.

    Raises:
        BuildFailed: with the last output.
        RuntimeUnavailable: the engine does not answer.

    Cancellation: ends the build; nothing of it is left.
    """
    with _temporary_file() as output, _temporary_file() as contents:
        await _compile(engine, name, plan, container_labels, output, on_line)
        await trio.to_thread.run_sync(_move, output, contents, plan.target)
        config = {
            "Image": plan.runtime,
            "Cmd": list(plan.command),
            "Env": _variables(plan.env),
            "Labels": dict(image_labels),
            "HostConfig": {"NetworkMode": "none"},
        }
        async with _container(engine, name, config) as container:
            with _refusal(f"image {name}: cannot be made from {plan.runtime}"):
                await engine.fill(container, "/", contents)
                await engine.commit(container, name)


async def _compile(
    engine: Engine,
    name: str,
    plan: ImagePlan,
    labels: Labels,
    output: BinaryIO,
    on_line: Callable[[str], None],
) -> None:
    """Run the script of a plan and write what it made."""
    config = {
        "Image": plan.builder,
        "Entrypoint": ["/bin/sh", "-c", plan.script],
        "Cmd": [],
        "Env": _variables(plan.build_env),
        "Labels": dict(labels),
        "AttachStdout": True,
        "AttachStderr": True,
        "Volumes": {BUILD_INPUT: {}},  # exists before the start, in whatever image
        "HostConfig": {"NetworkMode": "none"} if plan.offline else {},
    }
    said = Output(on_line)
    async with _container(engine, name, config) as container:
        with _refusal(f"image {name}: cannot be built in {plan.builder}"):
            code = await trio.to_thread.run_sync(plan.code)
            await engine.fill(container, BUILD_INPUT, io.BytesIO(code))
            async with await engine.attach(container) as stream:
                await engine.start(container)
                await said.pump(stream)
            await _ended_well(engine, container, name, said)
        with _refusal(f"image {name}: its build left nothing in {BUILD_OUTPUT}"):
            await engine.fetch(container, BUILD_OUTPUT, output)
    output.seek(0)


async def _ended_well(engine: Engine, container: str, name: str, said: Output) -> None:
    code = await engine.wait(container)
    state = await engine.inspect(container)
    if code is None or state is None:
        raise BuildFailed(f"image {name}: somebody removed the container of its build")
    if code:
        status = exit_status(code, oom_killed=state.oom_killed)
        raise BuildFailed("\n".join((f"image {name}: its build ended: {status}", *said.tail())))


@asynccontextmanager
async def _container(engine: Engine, name: str, config: Mapping[str, Any]) -> AsyncIterator[str]:
    """Hold a container that exists for this build only; its image is pulled if need be."""
    container = f"triopeer-build-{name}"  # so the next build removes one that cannot be removed
    try:
        with _refusal(f"image {name}: cannot use {config['Image']}"):
            await create(engine, container, config, partial(engine.pull, config["Image"]))
        yield container
    finally:
        await clean_up(engine, container)  # by name: a creation that failed may have succeeded


def _variables(env: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in env.items()]


def _move(output: BinaryIO, contents: BinaryIO, target: str) -> None:
    """Write the tar of a build's output anew, as it goes into the image: owned by root."""
    with (
        tarfile.open(fileobj=output) as source,
        tarfile.open(fileobj=contents, mode="w", format=tarfile.GNU_FORMAT) as moved,
    ):
        for member in source:
            member.name = _below(target, member.name)
            if member.islnk():
                member.linkname = _below(target, member.linkname)
            if member.name == _below(target, ""):
                member.mode = _TARGET_MODE  # it may be a directory of the image
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            moved.addfile(member, source.extractfile(member) if member.isreg() else None)
        end = moved.offset + 2 * tarfile.BLOCKSIZE
    contents.truncate(end)  # Podman stops reading there, and refuses padding that comes later
    contents.seek(0)


def _below(target: str, name: str) -> str:
    """Return where something of the output goes, as a name in a tar."""
    _, _, rest = name.partition("/")  # the first part is the directory's own name
    return posixpath.join(target, rest).strip("/")


@contextmanager
def _temporary_file() -> Iterator[BinaryIO]:
    with tempfile.TemporaryFile() as file:
        yield cast("BinaryIO", file)


@contextmanager
def _refusal(what: str) -> Iterator[None]:
    try:
        yield
    except (EngineRefused, PullFailed, OSError) as exc:
        raise BuildFailed(f"{what}: {exc}") from exc
