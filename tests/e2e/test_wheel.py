"""The wheel and the source archive, built, looked into, installed and used away from here."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import textwrap
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "peer": ROOT / "peer",
    "runtimes": ROOT / "runtimes",
    "shim": ROOT / "shim",
    "fabric_protos": ROOT / "proto" / "fabric_protos",
}
LIMIT_S = 60.0


def run(*command: str | Path, cwd: Path) -> str:
    """Run a program without this checkout in its environment and return what it printed."""
    unwanted = ("PYTHON", "CORE_", "FABRIC_", "COV_")
    done = subprocess.run(
        command,
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if not k.startswith(unwanted)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source archive of this checkout."""
    target = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", target, cwd=ROOT)
    (found,) = target.iterdir()
    return found


@pytest.fixture(scope="module")
def wheel(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the source archive, as others would."""
    place = tmp_path_factory.mktemp("wheel")
    with tarfile.open(archive) as tar:
        tar.extractall(place, filter="data")
    (source,) = place.iterdir()
    target = place / "dist"
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", target, cwd=source)
    (found,) = target.iterdir()
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into an environment that finds its dependencies in this one."""
    home = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home)
    python = home / "bin" / "python"
    install = ("install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "--python", python, *install, wheel, cwd=home)
    (site,) = home.glob("lib/python*/site-packages")
    # A line of a .pth file: what stands there is found, its own .pth files (this checkout) are not.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as file:
        return set(file.namelist())


def test_the_wheel_holds_every_module_and_nothing_else(wheel: Path) -> None:
    expected = {
        f"{name}/{path.relative_to(directory).as_posix()}"
        for name, directory in PACKAGES.items()
        for pattern in ("*.py", "py.typed")
        for path in directory.rglob(pattern)
    }
    assert {f"{name}/py.typed" for name in PACKAGES} <= expected
    found = contents(wheel)
    (information,) = {name.split("/")[0] for name in found if ".dist-info/" in name}
    assert {name for name in found if not name.startswith(f"{information}/")} == expected
    assert f"{information}/licenses/LICENSE" in found


def test_the_source_archive_holds_what_the_tests_and_the_generator_need(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        found = {name.partition("/")[2] for name in tar.getnames()}
    top = {"README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml"}
    assert {*top, ".ci/run", "proto/generate.py", "benchmarks/run.py"} <= found
    for folder, pattern in (("tests", "*.py"), ("proto/fabric-wire", "*.proto"), ("docs", "*.md")):
        wanted = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob(pattern)}
        assert wanted
        assert wanted <= found
    assert not [name for name in found if "__pycache__" in name or name.startswith(".venv")]


def test_the_installed_command_line(python: Path, tmp_path: Path) -> None:
    for command in ([python, "-m", "peer"], [python.with_name("triopeer")]):
        assert run(*command, "version", cwd=tmp_path).startswith("peer:\n Version: ")
    assert "vm.runtime\tprocess\tdefault\n" in run(
        python, "-m", "peer", "config", "show", cwd=tmp_path
    )


def test_the_installed_packages_are_those_of_the_wheel(python: Path, tmp_path: Path) -> None:
    code = """
        import fabric_protos.stream, fabric_protos.protos, peer, runtimes.api, runtimes.loader, shim
        for package in (fabric_protos, peer, runtimes, shim):
            print(package.__path__[0])
        runtimes.loader.load("process")
    """
    printed = run(python, "-c", textwrap.dedent(code), cwd=tmp_path).splitlines()
    assert len(printed) == len(PACKAGES)
    assert all(Path(line).is_relative_to(python.parents[1]) for line in printed)


def test_the_chaincode_library_is_light(python: Path, tmp_path: Path) -> None:
    """Neither the import nor all that a chaincode without TLS needs loads the peer's libraries."""
    code = """
        import sys
        import shim, shim.client
        shim.start, shim.Chaincode, shim.ChaincodeStub, shim.Response
        heavy = ("trio", "trio_asyncio", "betterproto2", "cryptography", "peer", "runtimes")
        print([name for name in heavy if name in sys.modules])
    """
    assert run(python, "-c", textwrap.dedent(code), cwd=tmp_path) == "[]\n"
