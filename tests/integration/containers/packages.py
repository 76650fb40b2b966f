"""Package files that bring along everything their build needs.

Room:      tests.integration.containers   (imports peer.lifecycle, tests.chaincodes)
Loop:      none; it blocks
Lifetime:  session
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from fabric_protos.codec import encode
from fabric_protos.protos import (
    ChaincodeDeploymentSpec,
    ChaincodeId,
    ChaincodeSpec,
    ChaincodeSpecType,
)
from peer.lifecycle import archive
from peer.lifecycle.packages import code_files, pack
from tests.chaincodes.prepare import SOURCES, STEP_LIMIT_S, counterpart
from tests.engines.rootfs import PYTHON
from tests.integration.builds.sources import BRINGS_ALL, REPOSITORY


class Packages:
    """Makes each package when it is first asked for."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __call__(self, name: str) -> Path:
        """Return a package file: `python`, `node`, `golang`, or `legacy`."""
        package = self._directory / f"{name}.package"
        if not package.exists():
            source = self._directory / name
            package.write_bytes(getattr(self, f"_{name}")(source))
        return package

    def _python(self, source: Path) -> bytes:
        """The chaincode on our library, with wheels for the Python of the images."""
        source.mkdir()
        shutil.copy(SOURCES / "ours" / "chaincode.py", source)
        (source / "requirements.txt").write_text("triopeer\n")
        wheelhouse = str(source / "wheelhouse")
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
        _run(*pip, "wheel", "--no-deps", "-w", wheelhouse, str(REPOSITORY))
        levels = ("2_34", "2_28", "2_17")
        machine = platform.machine()
        chosen = (
            f"--python-version={PYTHON}",
            "--implementation=cp",
            "--only-binary=:all:",
            *(f"--platform=manylinux_{level}_{machine}" for level in levels),
        )
        found = ("--find-links", wheelhouse)
        _run(*pip, "download", "-d", wheelhouse, *found, *chosen, "triopeer")
        return pack(source, "python", "python_1")

    def _node(self, source: Path) -> bytes:
        """The chaincode on the official library, with its ``node_modules`` as bundled."""
        return pack(bundled_node(source), "node", "node_1")

    def _golang(self, source: Path) -> bytes:
        """The chaincode on the official library, with ``vendor``."""
        BRINGS_ALL["golang"](source)
        return pack(source, "golang", "golang_1", module="example.org/behaviour")

    def _legacy(self, source: Path) -> bytes:
        """A deployment spec of the same Go chaincode, compiled."""
        source.mkdir()
        shutil.copy(counterpart("golang").path / "chaincode", source)
        identity = ChaincodeId(name="legacy", version="1.0", path="example.org/behaviour")
        spec = ChaincodeSpec(type=ChaincodeSpecType.GOLANG, chaincode_id=identity)
        code = archive.pack(code_files(source))
        return encode(ChaincodeDeploymentSpec(chaincode_spec=spec, code_package=code))


def bundled_node(target: Path) -> Path:
    """Copy the Node chaincode with its libraries, as ``bundleDependencies`` of its package."""
    shutil.copytree(counterpart("node").path, target)
    manifest = json.loads((target / "package.json").read_text())
    (target / "package.json").write_text(json.dumps({**manifest, "bundleDependencies": True}))
    return target


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=STEP_LIMIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
