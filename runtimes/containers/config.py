"""What the engine is told about a chaincode's container.

Room:      runtimes.containers   (imports options, network; used by runtime)
Loop:      none
Fabric:    `createContainer`, `getDockerHostConfig`,
           core/container/dockercontroller/dockercontroller.go (release-2.5)
"""

from __future__ import annotations

from typing import Any

from runtimes.api import ImagePlan, InstanceSpec
from runtimes.containers.engine import Image, Labels
from runtimes.containers.network import SOCKET_IN_CONTAINER, socket_of
from runtimes.containers.options import UNPRIVILEGED_USER, ContainerOptions
from runtimes.containers.start_contract import ContainerPlan, volumes

_ROOT = frozenset({"", "0", "root"})
_HOME_OF_ROOT = frozenset({"java"})
"""Types whose programs lie in root's home, where nobody else can enter (Fabric's images)."""


def container_plan(
    spec: InstanceSpec,
    *,
    name: str,
    image_name: str,
    image: Image,
    plan: ImagePlan,
    network: str,
    options: ContainerOptions,
    labels: Labels,
) -> ContainerPlan:
    """Return name, configuration and files of a chaincode's container.

    A Unix socket of the peer is mounted, and the chaincode told where.
    """
    host = {**options.host, "NetworkMode": network}
    address = spec.peer_address
    if path := socket_of(address):
        host["Mounts"] = [{"Type": "bind", "Source": path, "Target": SOCKET_IN_CONTAINER}]
        address = f"unix://{SOCKET_IN_CONTAINER}"
    env = dict(spec.env)
    user = options.user
    if (
        options.hardened
        and not user
        and _runs_as_root(image)
        and spec.package.type not in _HOME_OF_ROOT
    ):
        user = UNPRIVILEGED_USER
        env.setdefault("HOME", "/tmp")  # it has no home, and node wants one
    config: dict[str, Any] = {
        "Image": image_name,
        "Cmd": list(plan.argv(address)),
        "Env": [f"{key}={value}" for key, value in env.items()],
        "User": user,
        "Labels": {**options.labels, **labels},
        "StopTimeout": round(options.stop_grace_s),  # of an engine that shuts down, too
        "AttachStdout": True,
        "AttachStderr": True,
        "HostConfig": host,
    }
    has_readonly_root = bool(options.host.get("ReadonlyRootfs"))
    if has_readonly_root:
        config["Volumes"] = {directory: {} for directory in volumes(spec.files)}
    return ContainerPlan(
        name=name,
        config=config,
        files=spec.files,
        has_readonly_root=has_readonly_root,
        on_stage=spec.on_stage,
    )


def _runs_as_root(image: Image) -> bool:
    return image.user.partition(":")[0] in _ROOT
