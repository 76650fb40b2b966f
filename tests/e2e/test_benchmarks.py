"""The benchmarks run, and say the same to a reader, to a file and to a later run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def benchmarks(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "run.py"), *args],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
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
    assert whole["value"] > rows["floor: python that connects a socket"]["value"] > 0
    assert whole["ratio"] > 1
    assert 0 < rows["of it, connect to register"]["value"] < rows["launch to READY, p99"]["value"]


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
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_measured(
    args: tuple[str, ...], said: str
) -> None:
    done = benchmarks(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
