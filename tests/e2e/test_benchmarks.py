"""The benchmarks run, and say the same to a reader, to a file and to a later run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaincodes.prepare import counterpart
from tests.engines.engine import Engine

ROOT = Path(__file__).parents[2]


def benchmarks(*args: str, program: str = "run.py", **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / program), *args],
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_launches_are_measured_with_their_stages_and_floors(tmp_path: Path) -> None:
    path = tmp_path / "new" / "launch.json"
    done = benchmarks("--quick", "--only", "launch", "--json", str(path))
    assert done.returncode == 0, done.stderr
    kept = json.loads(path.read_text())
    assert kept["machine"].keys() >= {"CPU", "cores", "Python", "date"}
    rows = {row["name"]: row for row in kept["subjects"]["launch"]}
    assert all(name in done.stdout for name in rows)
    whole = rows["launch to READY"]
    assert whole["unit"] == "ms"
    assert whole["low"] <= whole["value"] <= whole["high"]
    executed = rows["launch to READY, zygote off"]
    assert executed["value"] > rows["floor: python that connects a socket"]["value"] > 0
    assert executed["ratio"] > 1
    assert whole["ratio"] > 0
    assert 0 < rows["of it, connect to register"]["value"] < rows["launch to READY, p99"]["value"]


def test_the_authors_loop_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "develop.json"
    done = benchmarks("--quick", "--only", "develop", "--json", str(path))
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(path.read_text())["subjects"]["develop"]}
    first = rows["dev: from nothing to the prompt"]
    changed = rows["dev: file change to the new code's answer"]
    assert 0 < changed["value"] <= rows["dev: file change to the new code's answer, p99"]["value"]
    assert 0 < first["low"] <= first["value"] <= first["high"]


def test_starts_are_measured_beside_a_python_that_does_nothing(tmp_path: Path) -> None:
    path = tmp_path / "startup.json"
    done = benchmarks("--quick", "--only", "startup", "--json", str(path))
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(path.read_text())["subjects"]["startup"]}
    whole = rows["node start to first committed invoke"]
    assert whole["ratio"] > rows["node start to its line"]["ratio"] > 1
    for command in ("demo", "--help", "import peer.assembly"):
        assert rows[f"{command}, CPU"]["ratio"] > 1


def test_launches_in_containers_are_measured_beside_their_floors(
    docker_engine: Engine, tmp_path: Path
) -> None:
    counterpart("golang")
    path = tmp_path / "containers.json"
    done = benchmarks(
        *("--quick", "--only", "containers", "--json", str(path)),
        DOCKER_HOST=docker_engine.endpoint,
        CONTAINER_HOST="tcp://127.0.0.1:1",
        CORE_CHAINCODE_BUILDER=docker_engine.images["builder"],
        CORE_CHAINCODE_GOLANG_RUNTIME=docker_engine.images["golang"],
    )
    assert done.returncode == 0, done.stderr
    assert "podman skipped: CONTAINER_HOST is no Unix socket" in done.stderr
    rows = {row["name"]: row for row in json.loads(path.read_text())["subjects"]["containers"]}
    for place in ("isolated", "isolated, TLS", "bridge", "bridge, TLS"):
        launch = rows[f"launch to READY, docker, {place}"]
        assert 0 < rows[f"own share, docker, {place}"]["low"] < launch["low"]
        assert rows[f"of it, start to connect, docker, {place}"]["low"] > 0
        assert rows[f"floor, start, docker, {place}"]["low"] > 0
        assert (rows[f"floor, upload, docker, {place}"]["low"] > 1) == ("TLS" in place)
    _, images = docker_engine.request("GET", "/images/json")
    assert "benchmark-" not in str(images)


def test_engines_that_cannot_be_had_are_skipped_with_the_reason() -> None:
    engines = {"DOCKER_HOST": "tcp://127.0.0.1:1", "CONTAINER_HOST": "ssh://somewhere"}
    done = benchmarks("--quick", "--only", "containers", **engines)
    assert done.returncode == 0, done.stderr
    for engine, variable in (("docker", "DOCKER_HOST"), ("podman", "CONTAINER_HOST")):
        assert f"{engine} skipped: {variable} is no Unix socket" in done.stderr
    assert "launch to READY" not in done.stdout


def test_a_later_run_tells_what_has_changed_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "codec.json"
    assert benchmarks("--quick", "--only", "codec", "--json", str(path)).returncode == 0
    kept = json.loads(path.read_text())
    rows = kept["subjects"]["codec"]
    for figure in ("low", "value", "high"):
        rows[0][figure] /= 10
    rows[2] |= {"low": 0.0, "value": rows[2]["value"] / 10, "high": rows[2]["high"] * 10}
    rows[1]["name"] = "an operation that is gone"
    kept["machine"]["Python"] = "2.7"
    path.write_text(json.dumps(kept))
    done = benchmarks("--quick", "--only", "codec", "--compare", str(path))
    assert done.returncode == 0, done.stderr
    assert "not comparable: Python was 2.7" in done.stdout
    assert f"of {len(rows) - 1} changed by more than 10%" in done.stdout
    (line,) = (
        line for line in done.stdout.splitlines() if line.endswith(f"codec: {rows[0]['name']}")
    )
    assert line.strip().startswith("+")
    assert "gone" not in done.stdout
    assert f"codec: {rows[2]['name']}" not in done.stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--only", "nothing"), "--only nothing fits none of: codec, "),
        (("--compare", "/nowhere.json"), "--compare /nowhere.json: no such file"),
        (("--markdown", "/nowhere.json"), "--markdown /nowhere.json: no such file"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_measured(
    args: tuple[str, ...], said: str
) -> None:
    done = benchmarks(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_round_trips_are_measured_with_every_library_beside_an_echo(tmp_path: Path) -> None:
    path, empty = tmp_path / "roundtrip.json", tmp_path / "bin"
    empty.mkdir()
    done = benchmarks("--quick", "--only", "roundtrip", "--json", str(path), PATH=str(empty))
    assert done.returncode == 0, done.stderr
    for library, tool in (("Go", "go"), ("Node", "npm")):
        assert f"{library} library skipped: {tool} is not installed" in done.stderr
    rows = {row["name"]: row for row in json.loads(path.read_text())["subjects"]["roundtrip"]}
    for trips in ("1 outstanding", "32 outstanding"):
        for name in ("library", "wire"):
            both = rows[f"peer and chaincode, {name}, {trips}"]
            assert both["value"] >= rows[f"peer, {name}, {trips}"]["low"] > 0
            assert both["to"] == f"peer and chaincode, echo, {trips}"
            assert both["ratio"] > 0
        assert not any("Go library" in name for name in rows)


@pytest.mark.parametrize("library", ["golang", "node"])
def test_round_trips_are_measured_with_official_libraries(library: str, tmp_path: Path) -> None:
    counterpart(library)
    path = tmp_path / "roundtrip.json"
    done = benchmarks("--quick", "--only", "roundtrip", "--json", str(path))
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(path.read_text())["subjects"]["roundtrip"]}
    name = {"golang": "Go library", "node": "Node library"}[library]
    assert rows[f"peer, {name}, 1 outstanding"]["to"] == "peer, echo, 1 outstanding"
    assert rows[f"peer, {name}, 1 outstanding"]["ratio"] > 1


def test_blocks_are_measured_with_signatures_known_and_new(tmp_path: Path) -> None:
    path = tmp_path / "blocks.json"
    done = benchmarks("--quick", "--only", "blocks", "--json", str(path))
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(path.read_text())["subjects"]["blocks"]}
    for how in ("from the embedded orderer", "signatures never seen"):
        for figure in ("wall", "peer"):
            row = rows[f"a transaction of a block of 500, {how}: {figure}"]
            assert 0 < row["low"] <= row["value"]
            assert row["to"] == "two signatures, cryptography"
    # Nobody can commit what nobody has seen for less than it takes to verify it.
    assert rows["a transaction of a block of 500, signatures never seen: peer"]["ratio"] > 1


def test_goals_are_told_of_what_was_kept_and_of_nothing_else(tmp_path: Path) -> None:
    row = {"unit": "ms", "low": 1.0, "high": 99.0, "ratio": 0.5, "to": "a floor"}
    kept = {
        "machine": {"CPU": "a CPU"},
        "subjects": {
            "launch": [
                {"name": "launch to READY", "value": 14.0, **row},
                {"name": "launch to READY, zygote off", "value": 91.0, **row},
                {"name": "no goal", "value": 1.0, **row},
            ]
        },
        "others": {"launch": 0.75, "codec": 0.01},
    }
    path = tmp_path / "kept.json"
    path.write_text(json.dumps(kept))
    done = benchmarks("--markdown", str(path))
    assert done.returncode == 0, done.stderr
    heading, line, *rows, nothing, machine, company = done.stdout.splitlines()
    assert heading == "| measured | figure | to the floor | goal |  | peer in Go |"
    assert line == "| --- | --- | --- | --- | --- | --- |"
    assert rows == [
        "| launch to READY, process, zygote | 14 ms | 0.5 x | ≤ 15 | met |  |",
        "| launch to READY, process, cold | 91 ms | 0.5 x | ≤ 90 | missed |  |",
    ]
    assert (nothing, machine) == ("", "CPU a CPU")
    assert company.startswith("WARNING: others used the CPUs")
    assert company.endswith("CPUs used: launch 0.8")


def test_who_else_uses_the_cpus_is_said(tmp_path: Path) -> None:
    path = tmp_path / "codec.json"
    burning = "import os; print(os.getpid(), flush=True)\nwhile True: pass"
    command = [sys.executable, "-c", burning]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            done = benchmarks("--quick", "--only", "codec", "--json", str(path))
        finally:
            other.kill()
    assert done.returncode == 0, done.stderr
    assert "WARNING: others used the CPUs" in done.stdout
    assert json.loads(path.read_text())["others"]["codec"] > 0.1


def test_where_time_goes_is_told_beside_an_earlier_run(tmp_path: Path) -> None:
    path, flames = tmp_path / "before.json", tmp_path / "flames"
    args = ("--quick", "--only", "endorse", "--json", str(path), "--flames", str(flames))
    done = benchmarks(*args, program="profiled.py")
    assert done.returncode == 0, done.stderr
    [profile] = json.loads(path.read_text()).values()
    assert sum(profile["packages"].values()) == pytest.approx(1, abs=1e-6)
    assert 0 < profile["packages"]["peer.msp"] < 1
    assert profile["cpu_us"] > 0
    stacks = (flames / "endorse_a_put.txt").read_text()
    assert re.search(r"^\S.*verify \(.*signatures\.py\) \d+$", stacks, re.MULTILINE)
    done = benchmarks("--quick", "--only", "endorse", "--compare", str(path), program="profiled.py")
    assert done.returncode == 0, done.stderr
    assert "| µs | endorse a put |" in done.stdout
    assert f"| all | {profile['cpu_us']:.0f} → " in done.stdout
    share = profile["packages"]["peer.msp"]
    assert f"| `peer.msp` | {share * profile['cpu_us']:.0f} → " in done.stdout


def test_services_are_measured_beside_their_floor(tmp_path: Path) -> None:
    path = tmp_path / "services.json"
    done = benchmarks("--quick", "--only", "services", "--json", str(path))
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(path.read_text())["subjects"]["services"]}
    for suffix in ("", ", TLS"):
        for clients in ("1 client", "8 clients", "64 clients"):
            name = f"endorse a put, {clients}{suffix}"
            assert rows[f"{name}, rate"]["value"] > 0
            assert 0 < rows[f"{name}, p50"]["value"] <= rows[f"{name}, p99"]["value"]
            assert rows[f"{name}, peer"]["ratio"] > 1
            assert rows[f"{name}, peer"]["to"] == f"health check, {clients}{suffix}, peer"
            assert rows[f"{name}, driver"]["value"] > 0
        for what in ("invoke", "submit"):
            for route in ("Broadcast and DeliverFiltered", "Gateway"):
                assert rows[f"{what}, {route}, 64 clients{suffix}, rate"]["value"] > 0


def test_attacks_are_measured_beside_peace(tmp_path: Path) -> None:
    path = tmp_path / "hostile.json"
    done = benchmarks("--quick", "--only", "hostile", "--json", str(path))
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(path.read_text())["subjects"]["hostile"]}
    for attack in ("garbage", "never reads", "burst", "resets", "dribbling", "half open"):
        assert rows[f"{attack}, p99"]["ratio"] > 0
        assert rows[f"{attack}, p99"]["to"] == f"before {attack}, p99"
        assert 0 < rows[f"{attack}, peer, memory"]["value"] < 200


def test_a_newcomer_needs_one_command_and_no_file(tmp_path: Path) -> None:
    path = tmp_path / "newcomer.json"
    done = benchmarks("--quick", "--only", "newcomer", "--json", str(path))
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(path.read_text())["subjects"]["newcomer"]}
    assert (rows["commands"]["value"], rows["files"]["value"]) == (1, 0)
    assert rows["empty directory to first committed transaction"]["value"] > 0
