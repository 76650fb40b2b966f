"""What docs/runtimes.md says of defaults, keys and findings is so."""

from __future__ import annotations

import re
from pathlib import Path

from runtimes.containers.options import HARDENED
from runtimes.process.options import ProcessOptions

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "runtimes.md").read_text(encoding="utf-8")


def rows(title: str) -> list[list[str]]:
    section = re.split(r"\n#+ ", PAGE.split(f"# {title}\n", 1)[1], maxsplit=1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_part_of_the_hardening_has_its_line_and_switch() -> None:
    switches = {key for row in rows("Hardening") for key in re.findall(r"`(\w+)`", row[2])}
    assert switches >= HARDENED.keys()
    defaults = "\n".join(row[1] for row in rows("Hardening"))
    assert f"CapDrop: [{HARDENED['CapDrop'][0]}]" in defaults
    assert str(HARDENED["PidsLimit"]) in defaults
    assert f"{HARDENED['Memory'] >> 30} GiB" in defaults
    assert "size=256m" in HARDENED["Tmpfs"]["/tmp"]


def test_the_options_of_the_process_runtime() -> None:
    documented = {row[0].strip("`"): row[1].strip("`") for row in rows("`process`")}
    assert documented.pop("propagateEnvironment") == "none"
    assert ProcessOptions.read({"process": documented}) == ProcessOptions()


def test_every_finding_of_doctor_is_explained() -> None:
    explained = {
        name for row in rows("What doctor finds") for name in re.findall(r"`([^`]+)`", row[0])
    }
    source = "".join(
        (ROOT / "peer" / "cli" / f"{name}.py").read_text(encoding="utf-8")
        for name in ("doctor", "doctor_engine", "findings")
    )
    made = set(re.findall(r'\b(?:ok|advice|broken|space)\(\s*"([^"]+)"', source))
    assert {"engine", "networks", "/proc", "data directory"} <= made
    assert made - explained == set()


def test_the_usual_sockets() -> None:
    from peer.cli.doctor_engine import KINDS

    for kind in KINDS.values():
        for socket in kind.sockets:
            assert f"`{socket.replace('~run', '$XDG_RUNTIME_DIR')}`" in PAGE
