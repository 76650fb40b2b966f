"""What the README and the chaincode page show is what happens."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from peer import open_peer
from runtimes import loader
from tests.integration.behaviour import cases_for
from tests.integration.test_counterparts import MODES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHAINCODE = (ROOT / "docs" / "chaincode.md").read_text(encoding="utf-8")


def write_files(page: str, directory: Path) -> list[Path]:
    """Write a page's Python blocks; one begins with its file's name, or goes on with the last."""
    written: list[Path] = []
    for block in re.findall(r"^```python\n(.+?)^```$", page, re.MULTILINE | re.DOTALL):
        named = re.match(r"# (\S+\.py)\n", block)
        if named:
            written.append(directory / named[1])
            written[-1].parent.mkdir(exist_ok=True)
        with written[-1].open("a", encoding="utf-8") as file:
            file.write(block + "\n\n")
    return written


def run(
    *command: str | Path, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CORE_", "FABRIC_"))}
    return subprocess.run(
        command,
        cwd=cwd,
        env={**kept, "PYTHONPATH": str(ROOT), **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def same(line: str) -> str:
    """Take out of a line what differs between runs: numbers, digests, the width of a column."""
    line = re.sub(r"\b[0-9a-f]{16,}\b", "DIGEST", line)
    return re.sub(r"\s+", " ", re.sub(r"\d+(\.\d+)?", "N", line)).strip()


def test_the_programs_of_the_readme(tmp_path: Path) -> None:
    chaincode, program = write_files(README, tmp_path)
    assert chaincode.parent.name == "counter"
    (shown,) = re.findall(r"^\$ \.venv/bin/python use\.py\n((?:.+\n)+?)```$", README, re.MULTILINE)
    done = run(sys.executable, program.name, cwd=tmp_path)
    assert (done.stdout, done.returncode) == (shown, 0), done.stderr


def test_the_demo_prints_what_the_readme_shows(tmp_path: Path) -> None:
    begin = "<!-- begin: output of make run -->\n```\n"
    shown = README.split(begin)[1].partition("```\n<!-- end -->")[0].splitlines()
    assert "\t$(BIN)/python -m peer demo $(ARGS)\n" in (ROOT / "Makefile").read_text()
    done = run(sys.executable, "-m", "peer", "demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    printed = iter([same(line) for line in done.stdout.splitlines()])
    is_next = False  # the first line may follow an empty one
    for line in shown:
        if line == "…":
            is_next = False
            continue
        found = next(printed, None)
        while not is_next and found is not None and found != same(line):
            found = next(printed, None)
        assert found == same(line), line
        is_next = True
    assert next(printed, None) is None, "the README leaves the end out"


def test_the_demo_can_be_repeated_and_leaves_a_configured_ledger_alone(tmp_path: Path) -> None:
    kept = {"CORE_PEER_FILESYSTEMPATH": str(tmp_path / "kept")}
    for _ in range(2):
        done = run(sys.executable, "-m", "peer", "demo", cwd=tmp_path, env=kept)
        assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_table_of_libraries() -> None:
    section = README.split("## What has been tested with what\n")[1].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"]
    said = {name: rest for name, *rest in rows[2:]}
    directory = ROOT / "tests" / "chaincodes"
    go = re.search(r"fabric-chaincode-go/v2 v(\S+)", (directory / "golang" / "go.mod").read_text())
    node = json.loads((directory / "node" / "package.json").read_text())["dependencies"]
    official = (directory / "official_python" / "requirements.txt").read_text()
    assert go is not None
    libraries = {
        "fabric-chaincode-go": ("golang", go[1]),
        "fabric-shim (Node.js)": ("node", node["fabric-shim"]),
        "fabric-chaincode-python": ("official_python", official.strip().partition("==")[2]),
        "`shim`, coroutines": ("ours", "this one"),
        "`shim`, plain functions": ("ours_sync", "this one"),
    }
    assert said.keys() == libraries.keys()
    for name, (library, expected) in libraries.items():
        version, dials, dialled, count, faults = said[name]
        cases = cases_for(library)
        assert version == expected
        assert (int(count), int(faults)) == (len(cases), sum(bool(each.marks) for each in cases))
        assert (dials != "cannot") == ((library, "client") in MODES), name
        assert (dialled == "yes") == ((library, "service") in MODES), name


def test_the_table_of_backends() -> None:
    section = README.split("## Where chaincodes run\n")[1].partition("\n## ")[0]
    tested = re.findall(r"^\| `(\w+)` .*\| tested by ", section, re.MULTILINE)
    assert tested == sorted(loader.OWN)


NOTES: Sequence[tuple[Sequence[str], int, str]] = [
    (["put", "a", "one"], 200, ""),
    (["put", "b", "two"], 200, ""),
    (["get", "a"], 200, "one"),
    (["get", "z"], 404, "there is no z"),
    (["absent"], 404, "there is no function absent"),
    (["between", "a", "c"], 200, '["a", "b"]'),
    (["page", "1"], 200, '[["a"], "b"]'),
    (["page", "1", "b"], 200, '[["b"], ""]'),
    (["put", "j1", '{"length":3,"text":"abc"}'], 200, ""),
    (["put", "j2", '{"length":9,"text":"Abc"}'], 200, ""),
    (["longer_than", "2"], 200, '["j1"]'),
    (["tag", "a", "red"], 200, ""),
    (["tag", "b", "red"], 200, ""),
    (["tagged", "red"], 200, '["a", "b"]'),
    (["double", "a", "b"], 200, ""),
    (["get", "b"], 200, "twotwo"),
    (["remove", "b"], 200, ""),
    (["get", "b"], 404, "there is no b"),
    (["versions", "a"], 200, '["oneone", "one"]'),
    (["ask", "other", "get", "a"], 500, "other said: there is no a"),
    (["ask", "other", "put", "a", "x"], 200, ""),
    (["ask", "other", "get", "a"], 200, "x"),
    (["whoami"], 200, "SampleOrg client"),
    (["keep_secret", "s"], 200, ""),
    (["tell_secret", "s"], 200, "hush"),
]


async def test_the_chaincode_page(tmp_path: Path) -> None:
    chaincode, program = write_files(CHAINCODE, tmp_path)
    done = await trio.to_thread.run_sync(lambda: run(sys.executable, program.name, cwd=tmp_path))
    assert done.returncode == 0, done.stderr
    shown = set(re.findall(r"^@function\nasync def (\w+)", chaincode.read_text(), re.MULTILINE))
    assert shown | {"absent"} == {args[0] for args, _, _ in NOTES} | {"announce"}
    async with open_peer() as peer:
        for name in ("notes", "other"):
            await peer.install(chaincode.parent, name=name, collections=["secrets"])
        for args, status, text in NOTES:
            result = await peer.invoke("mychannel", "notes", args, transient={"text": b"hush"})
            answer = result.payload.decode() if status == 200 else result.message
            assert (result.status, answer) == (status, text), args
        result = await peer.invoke("mychannel", "notes", ["announce", "hello"])
        assert result.event is not None
        assert (result.event.event_name, result.event.payload) == ("Announced", b"hello")
