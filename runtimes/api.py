"""The contract between the peer and whatever runs its chaincodes.

Room:      runtimes   (imports the standard library only; imported by peer and every backend)
Loop:      Trio
Lifetime:  a backend lives as long as the peer, an instance from `start` to its exit
Fabric:    core/container/container.go `Router` and `Instance` (release-2.5)

Rules every backend keeps, and `tests/contract/` checks on each one:

1. `start` returns a running instance or leaves nothing behind, also when cancelled half way.
2. `start` first removes what an earlier start under the same name left.
3. `stop` may be called at any time and twice; it returns when the whole process tree is gone.
4. Decisions rest on status codes and types, never on message text.
5. Secrets (`InstanceSpec.files`) are logged by name and size only.
6. `start` tells `InstanceSpec.on_stage` of each stage as it begins.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

PEER_ADDRESS = "{peer.address}"
"""Stands for the address to dial in `ImagePlan.command`."""
PEER_HOST, PEER_PORT = "{peer.host}", "{peer.port}"
"""Stand for its parts in `ImagePlan.probe`."""
BUILD_INPUT = "/chaincode/input"
"""Where a build in a container finds the code; Fabric's images prepare it."""
BUILD_OUTPUT = "/chaincode/output"
"""Where such a build leaves what is to run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePlan:
    """How a container engine makes the image of a package: a build in a container, then the image.

    Attributes:
        builder: image the code is built in. An engine that lacks one pulls it or refuses.
        script: what ``/bin/sh`` executes in it; it finds the code unpacked at `BUILD_INPUT`, and
            what it leaves at `BUILD_OUTPUT` goes into the image.
        build_env: variables of the build.
        offline: the build needs no network, so it gets none.
        runtime: what the image is made from.
        target: where in it the output goes.
        env, labels: of the image.
        command: program and arguments in the image, `PEER_ADDRESS` among them.
        probe: program and arguments in the image that connect to `PEER_HOST` and `PEER_PORT`; exit
            code 1, and the reason in the last line of output, if that fails.
        code: returns the code as a gzip tar; blocks.
    """

    builder: str
    script: str
    runtime: str
    target: str
    command: tuple[str, ...]
    probe: tuple[str, ...]
    offline: bool
    build_env: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    code: Callable[[], bytes] = field(repr=False, compare=False)

    def argv(self, peer_address: str) -> tuple[str, ...]:
        """Return the command of a chaincode that dials `peer_address`."""
        return dialling(self.command, peer_address)


def dialling(command: Sequence[str], peer_address: str) -> tuple[str, ...]:
    """Return a command with the address in the place of `PEER_ADDRESS`."""
    return tuple(word.replace(PEER_ADDRESS, peer_address) for word in command)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launcher:
    """The ``bin/run`` of an external builder.

    It is executed with the package's path and a directory that holds ``chaincode.json``; its exit
    is the chaincode's.

    Attributes:
        env: its whole environment.
    """

    program: Path
    env: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaincodePackage:
    """Code that is ready to be built.

    Attributes:
        ccid: the id the chaincode registers under, ``label:sha256`` or ``name:version``.
        type: ``golang``, ``node``, ``java`` or ``python``, lower case.
        path: directory the chaincode runs in where there is no image: what had to be compiled or
            installed for that is there.
        image: how to make an image of it; None if it cannot be had.
        launcher: what starts it, in place of its type's command and as a process of this machine.
        command: program and arguments, `PEER_ADDRESS` among them, in place of its type's; executed
            in `path`.
        env: variables of its own; those of `InstanceSpec` come first.
    """

    ccid: str
    type: str
    path: Path
    image: ImagePlan | None = None
    launcher: Launcher | None = None
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


Stage = Literal["build", "create", "upload", "start"]
"""What a launch goes through below the peer.

A start begins in `create`. Its backend reports `upload` only where files are written, `start` when
the chaincode's program is about to run, and `build` and then `create` again where what was built
has gone.
"""

ReportStage = Callable[[Stage], None]
"""Called as a stage begins; does not wait and does not raise."""


def unreported(stage: Stage) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSpec:
    """Everything one start needs.

    Attributes:
        package: what to run; it has been built.
        peer_address: what the chaincode dials, ``host:port`` or ``unix:///path``.
        env: environment of the chaincode, Fabric's names.
        files: absolute path as the chaincode knows it → content. Written before the start. A
            backend that cannot put a file at that path rewrites the values of `env` that name it.
        on_stage: hears how the start proceeds.
    """

    package: ChaincodePackage
    peer_address: str
    env: Mapping[str, str]
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    on_stage: ReportStage = field(default=unreported, repr=False, compare=False)

    @property
    def ccid(self) -> str:
        """The id the chaincode registers under."""
        return self.package.ccid


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How an instance ended: an exit code, or the signal that killed it."""

    code: int | None = None
    signal: int | None = None
    oom_killed: bool = False

    def __str__(self) -> str:
        if self.oom_killed:
            return "killed: out of memory"
        return f"killed by signal {self.signal}" if self.signal else f"exit code {self.code}"


@dataclass(frozen=True, slots=True)
class UnixOrigin:
    """The far end of a Unix socket, as the kernel reports it (SO_PEERCRED)."""

    pid: int
    uid: int


@dataclass(frozen=True, slots=True)
class TcpOrigin:
    """The far end of a TCP connection, and the local end it reached."""

    remote: tuple[str, int]
    local: tuple[str, int]


Origin = UnixOrigin | TcpOrigin


class Instance(Protocol):
    """One started chaincode."""

    async def wait(self) -> ExitStatus:
        """Return once the chaincode's main process has ended. Any number of callers may wait."""
        ...

    async def stop(self) -> None:
        """End the whole process tree and return when it is gone. Idempotent."""
        ...

    def tail(self) -> tuple[str, ...]:
        """Return the last lines of output, oldest first; kept after the exit."""
        ...

    async def owns(self, origin: Origin) -> bool:
        """Tell whether a connection comes from this instance's own processes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a backend can do, as data.

    Attributes:
        unix_socket: chaincode types whose library can dial the peer's Unix socket here.
        image_build: packages become images.
        is_remote: the engine is on another machine.
    """

    unix_socket: frozenset[str] = frozenset()
    image_build: bool = False
    is_remote: bool = False


class RuntimeBackend(Protocol):
    """A place where chaincode can run."""

    @property
    def name(self) -> str:
        """The name under which config chooses it."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What this backend can do."""
        ...

    async def build(self, package: ChaincodePackage) -> None:
        """Make `package` startable; returns at once when it is already.

        Raises:
            BuildFailed: with the last output of the build.
        """
        ...

    async def start(self, spec: InstanceSpec) -> Instance:
        """Start a built package.

        Raises:
            StartFailed: the command does not exist or cannot be executed, or the engine refuses.
            BuildFailed: it had to be built again, and cannot be.
            RuntimeUnavailable: the engine does not answer.

        Cancellation: leaves nothing of this start behind.
        Source: DockerVM.Start, core/container/dockercontroller/dockercontroller.go (release-2.5).
        """
        ...

    async def prune(self, installed: Collection[str]) -> None:
        """Remove what was built for packages that are not in `installed` and do not run.

        Raises:
            RuntimeUnavailable: the engine does not answer.

        Cancellation: the rest is removed by the next call.
        """
        ...

    async def listen_host(self) -> str:
        """Return the IP address of this machine under which chaincodes reach the peer by TCP.

        Raises:
            RuntimeUnavailable: the engine does not answer.
            StartFailed: they have no network that leads here.
        """
        ...

    async def health(self) -> None:
        """Return if the backend could start something now, raise `RuntimeUnavailable` if not."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeSettings:
    """What the peer hands to a backend when it opens it.

    Attributes:
        network_id: ``peer.networkId``; part of container and image names.
        peer_id: ``peer.id``; likewise.
        state_dir: directory of the backend's own; exists, mode 0700, survives restarts.
        options: the ``vm`` tree of the configuration, Fabric's spelling.
        on_output: called with (ccid, line) for every line of chaincode output, as it comes.
    """

    network_id: str
    peer_id: str
    state_dir: Path
    options: Mapping[str, object]
    on_output: Callable[[str, str], None]


BackendFactory = Callable[[RuntimeSettings], AbstractAsyncContextManager[RuntimeBackend]]
"""What `runtimes.loader` finds by a name. Leaving it stops every instance."""


class RuntimeFailure(Exception):
    """Root of everything a backend raises on purpose."""


class RuntimeUnavailable(RuntimeFailure):
    """The engine behind the backend does not answer."""


class OptionRejected(RuntimeFailure):
    """A backend's part of the configuration cannot be used; carries every problem found."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


class NameRejected(RuntimeFailure):
    """A chaincode id gives no valid image or container name."""


class BuildFailed(RuntimeFailure):
    """A package could not be built; the message ends with the last output."""


class StartFailed(RuntimeFailure):
    """The chaincode could not be started; the text says which step failed and why."""


class UploadFailed(StartFailed):
    """Files could not be brought into a container."""
