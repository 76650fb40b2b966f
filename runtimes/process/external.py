"""Start what an external builder built.

Room:      runtimes.process   (imports runtimes.api, keeper, link, directory; used by runtime)
Loop:      none
Lifetime:  instance
Fabric:    core/container/externalbuilder/externalbuilder.go `Run`, instance.go (release-2.5)
"""

from __future__ import annotations

import json

from runtimes.api import ChaincodePackage, InstanceSpec, Launcher
from runtimes.process import keeper
from runtimes.process.directory import PrivateDirectory
from runtimes.process.link import Command

CHAINCODE_JSON = "chaincode.json"
GRACE_S = 5.0
"""Between SIGTERM and SIGKILL; Fabric's, whatever the configuration says of other processes."""


def describe(spec: InstanceSpec) -> bytes:
    """Return ``chaincode.json``: where and as whom to register. It holds the client key."""

    def pem(variable: str) -> str:
        return spec.files.get(spec.env.get(variable, ""), b"").decode()

    return json.dumps(
        {
            "chaincode_id": spec.ccid,
            "peer_address": spec.peer_address,
            "client_cert": pem("CORE_TLS_CLIENT_CERT_FILE"),
            "client_key": pem("CORE_TLS_CLIENT_KEY_FILE"),
            "root_cert": pem("CORE_PEER_TLS_ROOTCERT_FILE"),
            "mspid": spec.env.get("CORE_PEER_LOCALMSPID", ""),
        }
    ).encode()


def command(package: ChaincodePackage, launcher: Launcher, directory: PrivateDirectory) -> Command:
    """Return the launcher with its two directories and nothing but its own environment."""
    return Command(
        argv=(str(launcher.program), str(package.path), str(directory.metadata)),
        env={**launcher.env, keeper.TOKEN: directory.token},
        cwd=str(package.path),
        limits={"core": 0},
    )
