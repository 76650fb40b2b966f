"""Run chaincodes in containers of an engine.

Room:      runtimes.containers   (imports its own room; used by runtimes.docker, runtimes.podman)
Loop:      Trio
Lifetime:  the backend as long as the peer; an instance until its container is removed
Fabric:    `DockerVM`, core/container/dockercontroller/dockercontroller.go (release-2.5)
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import trio

from runtimes.api import (
    BuildFailed,
    Capabilities,
    ChaincodePackage,
    ImagePlan,
    InstanceSpec,
    RuntimeFailure,
    RuntimeSettings,
    RuntimeUnavailable,
)
from runtimes.containers.address import EngineAddress, find_engine
from runtimes.containers.building import build_image
from runtimes.containers.client import Dialect, open_engine
from runtimes.containers.config import container_plan
from runtimes.containers.engine import Engine, EngineRefused, Found, Image, Labels
from runtimes.containers.instance import Check, ContainerInstance
from runtimes.containers.network import Networks, own_network_name
from runtimes.containers.options import ContainerOptions
from runtimes.containers.reach import Reach
from runtimes.containers.session import CCID, CONTENT, PEER, Session, open_session, sweep
from runtimes.containers.start_contract import Build, ContainerPlan
from runtimes.holding import holders
from runtimes.naming import container_name, image_name
from runtimes.output import Output

log = logging.getLogger("runtimes.containers")

HEALTH_LIMIT_S = 5.0

_DIAL_UNIX = frozenset({"golang", "python"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavour:
    """In what one kind of engine differs from another.

    Attributes:
        name: of the backend, and of its section below ``vm``.
        variable: environment variable with the engine's address.
        has_contexts: the engine's command line keeps contexts.
        sockets: where it usually listens; ``~run`` is the user's runtime directory.
    """

    name: str
    variable: str
    has_contexts: bool
    sockets: tuple[str, ...]
    dialect: Dialect


@asynccontextmanager
async def open_runtime(
    flavour: Flavour, settings: RuntimeSettings
) -> AsyncIterator[ContainerRuntime]:
    """Open a backend on an engine; leaving it removes every container it started.

    Raises:
        OptionRejected: ``vm.endpoint`` or the engine's section have mistakes.
        RuntimeUnavailable: the engine does not answer, or another peer uses
            `settings.state_dir`.

    Cancellation: removes every container, shielded and bounded.
    """
    options = ContainerOptions.read(settings.options, flavour.name)
    address = find_engine(
        endpoint=str(settings.options.get("endpoint") or ""),
        tls=options.tls,
        env=os.environ,
        variable=flavour.variable,
        has_contexts=flavour.has_contexts,
        sockets=flavour.sockets,
    )
    with open_session(settings) as session:
        async with open_engine(address, flavour.dialect) as engine:
            networks = Networks(
                engine,
                address,
                options,
                name=own_network_name(settings.network_id, settings.peer_id),
                labels=session.labels,
            )
            capabilities = Capabilities(
                unix_socket=_DIAL_UNIX if address.is_local else frozenset(),
                image_build=True,
                is_remote=not address.is_local,
            )
            async with run(
                engine,
                networks,
                session,
                options,
                settings,
                flavour.name,
                capabilities,
                await _machine(address),
            ) as runtime:
                yield runtime


@asynccontextmanager
async def run(
    engine: Engine,
    networks: Networks,
    session: Session,
    options: ContainerOptions,
    settings: RuntimeSettings,
    name: str,
    capabilities: Capabilities,
    machine: frozenset[str] = frozenset(),
) -> AsyncIterator[ContainerRuntime]:
    """Sweep, then hold a backend on an engine that is there already.

    Args:
        machine: see `ContainerInstance`.

    Raises:
        RuntimeUnavailable: the engine does not answer.
    """
    ids = {"network_id": settings.network_id, "peer_id": settings.peer_id}

    def is_kept(container: Found) -> bool:
        ccid = container.labels.get(CCID, "")
        return options.keeps_leftovers and container.name == container_name(ccid, **ids)

    await sweep(engine, session, is_kept)
    async with holders() as nursery:
        runtime = ContainerRuntime(
            name=name,
            capabilities=capabilities,
            engine=engine,
            networks=networks,
            session=session,
            options=options,
            settings=settings,
            holders=nursery,
            machine=machine,
        )
        try:
            yield runtime
        finally:
            await runtime.close()


class ContainerRuntime:
    """Starts chaincodes in containers; opened by `open_runtime`."""

    def __init__(
        self,
        *,
        name: str,
        capabilities: Capabilities,
        engine: Engine,
        networks: Networks,
        session: Session,
        options: ContainerOptions,
        settings: RuntimeSettings,
        holders: trio.Nursery,
        machine: frozenset[str],
    ) -> None:
        self.name = name
        self.capabilities = capabilities
        self._engine = engine
        self._networks = networks
        self._reach = Reach(engine)
        self._session = session
        self._options = options
        self._on_output = settings.on_output
        self._ids = {"network_id": settings.network_id, "peer_id": settings.peer_id}
        self._holders = holders
        self._machine = machine
        self._instances: dict[str, ContainerInstance] = {}
        self._built: dict[str, Image] = {}
        self._building: defaultdict[str, trio.Lock] = defaultdict(trio.Lock)

    async def build(self, package: ChaincodePackage) -> None:
        """Make the image of a package, unless there is one of the same content.

        Raises:
            BuildFailed: with the last output of the build.
            RuntimeUnavailable: the engine does not answer.

        Cancellation: ends the build.
        """
        plan = _plan_of(package)
        found = self._built.get(package.ccid)
        if found is None or found.labels.get(CONTENT) != _content(package, plan):
            await self._build(package, plan)

    async def start(self, spec: InstanceSpec) -> ContainerInstance:
        """Start a package; what an earlier start under the same id left is removed first.

        Raises:
            StartFailed: the engine refuses a step.
            BuildFailed: the image was missing, and cannot be built.
            RuntimeUnavailable: the engine does not answer.

        Cancellation: leaves nothing of this start behind.
        """
        package, plan = spec.package, _plan_of(spec.package)

        async def build() -> Image:
            spec.on_stage("build")
            image = await self._build(package, plan)
            spec.on_stage("create")
            return image

        image = self._built.get(spec.ccid) or await build()
        name = container_name(spec.ccid, **self._ids)
        network = await self._networks.join(spec.peer_address)
        container = container_plan(
            spec,
            name=name,
            image_name=image_name(spec.ccid, **self._ids),
            image=image,
            plan=plan,
            network=network,
            options=self._options,
            labels=self._labels_of(package),
        )
        while (former := self._instances.get(spec.ccid)) is not None:
            await former.stop()
        # no await between the look above and the entry here: this is the lock
        instance = self._instances[spec.ccid] = ContainerInstance(
            ccid=spec.ccid,
            engine=self._engine,
            name=name,
            output=Output(partial(self._on_output, spec.ccid)),
            grace_s=self._options.stop_grace_s,
            machine=self._machine,
        )
        check = partial(
            self._reach.check, name, network=network, peer_address=spec.peer_address, plan=plan
        )
        await self._holders.start(partial(self._hold, instance, container, build, check))
        return instance

    async def prune(self, installed: Collection[str]) -> None:
        """Remove images of this peer, and containers kept for inspection, of other packages.

        An image whose name a newer one has taken goes, too. One of another live peer stays.

        Raises:
            RuntimeUnavailable: the engine does not answer.

        Cancellation: the rest is removed by the next call.
        """
        wanted = {*installed, *self._instances}
        for ccid in self._built.keys() - wanted:
            del self._built[ccid]
        if self._options.keeps_leftovers:
            await sweep(self._engine, self._session, lambda found: found.labels.get(CCID) in wanted)
        try:
            for image in await self._engine.images(f"{PEER}={self._session.peer}"):
                is_wanted = image.has_name and image.labels.get(CCID) in wanted
                if self._is_ours(image.labels) and not is_wanted:
                    await self._remove_image(image.id)
        except EngineRefused as exc:
            raise RuntimeUnavailable(f"images cannot be listed: {exc}") from exc

    async def listen_host(self) -> str:
        """Return the address of this machine that containers reach by TCP.

        Raises:
            StartFailed: there is none.
            RuntimeUnavailable: the engine does not answer.
        """
        return await self._networks.listen_host()

    async def health(self) -> None:
        """Return once the engine has answered.

        Raises:
            RuntimeUnavailable: it does not, or not within `HEALTH_LIMIT_S`.
        """
        with trio.move_on_after(HEALTH_LIMIT_S):
            try:
                await self._engine.ping()
            except EngineRefused as exc:
                raise RuntimeUnavailable(f"the engine is ill: {exc}") from exc
            return
        raise RuntimeUnavailable(f"the engine does not answer within {HEALTH_LIMIT_S:g} s")

    async def close(self) -> None:
        """Remove every container, all at once. Cancellation: shielded and bounded."""
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as stops:
                for instance in self._instances.values():
                    stops.start_soon(_stop_or_log, instance)
            await self._networks.close()

    async def _hold(
        self,
        instance: ContainerInstance,
        container: ContainerPlan,
        build: Build,
        check: Check,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        try:
            await instance.hold(container, build, check, task_status=task_status)
        finally:
            del self._instances[instance.ccid]

    def _labels_of(self, package: ChaincodePackage) -> dict[str, str]:
        return {**self._session.labels, CCID: package.ccid}

    async def _image(self, package: ChaincodePackage) -> Image | None:
        try:
            return await self._engine.image(image_name(package.ccid, **self._ids))
        except EngineRefused as exc:
            raise BuildFailed(f"docker image inspection failed: {exc}") from exc

    async def _build(self, package: ChaincodePackage, plan: ImagePlan) -> Image:
        """Return the image of a package. One caller builds it unless it is there, others wait."""
        name = image_name(package.ccid, **self._ids)
        content = _content(package, plan)
        async with self._building[package.ccid]:
            former = image = await self._image(package)
            if image is None or image.labels.get(CONTENT) != content:
                await build_image(
                    self._engine,
                    name,
                    plan,
                    image_labels={**plan.labels, **self._labels_of(package), CONTENT: content},
                    container_labels={**self._options.labels, **self._session.labels},
                    on_line=partial(self._on_output, package.ccid),
                )
                image = await self._image(package)
                if image is None:
                    raise BuildFailed(f"image {name} was removed as soon as it was made")
                if former is not None:
                    await self._remove_image(former.id)
            self._built[package.ccid] = image
            return image

    async def _remove_image(self, image: str) -> None:
        try:
            await self._engine.remove_image(image)
        except EngineRefused as exc:
            log.warning("image %s, which nobody needs, stays: %s", image, exc)

    def _is_ours(self, labels: Labels) -> bool:
        """Tell whether this session made it, or one of this peer that has ended."""
        return self._session.owns(labels) or self._session.is_left_over(labels)


async def _machine(address: EngineAddress) -> frozenset[str]:
    """Return the addresses of the engine's machine, none if it is this one.

    Raises:
        RuntimeUnavailable: it has none.
    """
    if address.is_local:
        return frozenset()
    try:
        found = await trio.socket.getaddrinfo(address.host, address.port)
    except OSError as exc:
        raise RuntimeUnavailable(f"no answer from the engine at {address}: {exc}") from exc
    return frozenset(str(where[0]) for *_, where in found)


def _plan_of(package: ChaincodePackage) -> ImagePlan:
    if package.image is None:
        raise BuildFailed(f"{package.ccid}: there is no image of chaincode type {package.type}")
    return package.image


def _content(package: ChaincodePackage, plan: ImagePlan) -> str:
    """Return what an image is made from: the id stands for the code."""
    made_from = (
        *(package.ccid, plan.builder, plan.script, *_sorted(plan.build_env)),
        *(plan.runtime, plan.target, *_sorted(plan.env), *_sorted(plan.labels)),
    )
    return hashlib.sha256("\0".join(made_from).encode()).hexdigest()


def _sorted(pairs: Mapping[str, str]) -> Iterator[str]:
    return (f"{key}={value}" for key, value in sorted(pairs.items()))


async def _stop_or_log(instance: ContainerInstance) -> None:
    try:
        await instance.stop()
    except RuntimeFailure as exc:
        log.error("stop of %s failed: %s", instance.ccid, exc)
