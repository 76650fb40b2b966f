"""``doctor`` as its user meets it, and on the real engines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import pytest

from peer.cli.diagnosis import diagnose
from peer.cli.findings import Finding, Status
from runtimes import loader
from tests.engines.engine import Engine

ROOT = Path(__file__).parents[2]


def doctor(*args: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CORE_", "FABRIC_"))}
    return subprocess.run(
        [sys.executable, "-m", "peer", "doctor", *args],
        env={**kept, "PYTHONPATH": os.pathsep.join(sys.path), **(env or {})},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_default_works(tmp_path: Path) -> None:
    done = doctor("--json", env={"TMPDIR": str(tmp_path)})
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert (document["runtime"], document["broken"]) == ("process", False)
    by_check = {finding["check"]: finding for finding in document["findings"]}
    assert by_check["runtime"]["detail"] == "process could start a chaincode now"
    assert by_check["runtime"].keys() == {"check", "status", "detail", "advice"}
    assert list(tmp_path.iterdir()) == []


def test_people_get_a_table_with_what_to_do(tmp_path: Path) -> None:
    env = {"CORE_VM_ENDPOINT": f"unix://{tmp_path}/none"}
    done = doctor("--runtime", "docker", env=env)
    assert (done.returncode, done.stderr) == (1, "")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["X", "engine"] in [row[:2] for row in rows]
    assert "-> systemctl start docker" in done.stdout


def test_a_bad_configuration_is_a_finding_for_each_problem(tmp_path: Path) -> None:
    path = tmp_path / "core.yaml"
    path.write_text("peer:\n  idd: me\nchaincode:\n  executetimout: 3s\n")
    done = doctor("--json", "--config", str(path))
    assert (done.returncode, done.stderr) == (1, "")
    findings = json.loads(done.stdout)["findings"]
    assert [finding["status"] for finding in findings] == ["broken", "broken"]
    assert "did you mean peer.id?" in findings[0]["detail"]


def test_an_unknown_runtime_names_those_there_are() -> None:
    done = doctor("--json", "--runtime", "nspawn")
    assert done.returncode == 1
    finding = json.loads(done.stdout)["findings"][-1]
    assert finding["detail"].startswith("there is no runtime 'nspawn'; installed are: ")


@pytest.fixture(params=["docker", "podman"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Engine:
    found = request.getfixturevalue(f"{request.param}_engine")
    assert isinstance(found, Engine)
    backend = import_module(f"runtimes.{found.name}").backend
    monkeypatch.setattr(loader, "load", lambda name: backend)  # whatever is installed
    monkeypatch.setenv("CORE_VM_ENDPOINT", found.endpoint)
    monkeypatch.setenv("CORE_CHAINCODE_PYTHON_RUNTIME", found.images["python"])
    return found


def names(engine: Engine) -> set[str]:
    _, networks = engine.request("GET", "/networks")
    return {network["Name"] for network in networks}


def test_a_real_engine(engine: Engine) -> None:
    before = names(engine)
    runtime, found = diagnose(None, engine.name)
    assert runtime == engine.name
    by_check = {finding.check: finding for finding in found}
    assert [f for f in found if f.status is Status.BROKEN] == []
    assert engine.endpoint in by_check["engine"].detail
    assert by_check["chaincode.python.runtime"].status is Status.OK
    assert by_check["chaincode.node.runtime"].status is Status.ADVICE
    assert by_check["runtime"] == Finding(
        "runtime", Status.OK, f"{engine.name} could start a chaincode now"
    )
    assert names(engine) == before


def test_a_backend_that_fails_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORE_VM_PROCESS_OPENFILES", "3")
    _, found = diagnose(None, "process")
    assert found[-1].check == "runtime"
    assert found[-1].status is Status.BROKEN
    assert "too few" in found[-1].detail
