"""The generated files in the repository are what the generator makes of the .proto files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.protos.schema import ROOT

GENERATED = ROOT / "proto" / "fabric_protos"


def generate(proto: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the generator of *proto* without the scripts directory on the path."""
    return subprocess.run(
        [sys.executable, str(proto / "generate.py"), *arguments],
        cwd=cwd,
        env=os.environ | {"PATH": os.defpath, "PYTHONPATH": str(proto)},
        capture_output=True,
        text=True,
    )


def test_the_repository_is_up_to_date(tmp_path: Path) -> None:
    done = generate(ROOT / "proto", "--check", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_differences_are_listed_then_mended(tmp_path: Path) -> None:
    proto = tmp_path / "proto"
    shutil.copytree(ROOT / "proto", proto, ignore=shutil.ignore_patterns("__pycache__"))
    package = proto / "fabric_protos"
    (package / "msp" / "__init__.py").write_text("# edited\n", encoding="utf-8")
    (package / "rwset" / "__init__.py").unlink()
    (package / "gone").mkdir()
    (package / "gone" / "__init__.py").touch()
    differences = {
        "gone/__init__.py: not generated any more",
        "msp/__init__.py: differs",
        "rwset/__init__.py: differs",
    }

    done = generate(proto, "--check", cwd=tmp_path)
    assert (done.returncode, set(done.stdout.splitlines())) == (1, differences)
    assert (package / "msp" / "__init__.py").read_text(encoding="utf-8") == "# edited\n"

    done = generate(proto, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert generate(proto, "--check", cwd=tmp_path).returncode == 0
    for path in GENERATED.rglob("*.py"):
        name = path.relative_to(GENERATED)
        assert (package / name).read_bytes() == path.read_bytes(), name
    assert not (package / "gone" / "__init__.py").exists()


def test_a_broken_proto_file_is_reported_and_changes_nothing(tmp_path: Path) -> None:
    proto = tmp_path / "proto"
    shutil.copytree(ROOT / "proto", proto, ignore=shutil.ignore_patterns("__pycache__"))
    (proto / "fabric-wire" / "peer" / "query.proto").write_text("syntax = ;", encoding="utf-8")
    done = generate(proto, cwd=tmp_path)
    assert done.returncode == 1
    assert "peer/query.proto" in done.stderr
    assert (proto / "fabric_protos" / "stream.py").read_bytes() == (
        GENERATED / "stream.py"
    ).read_bytes()
