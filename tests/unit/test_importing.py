"""What is imported when, so that a runtime starts early; and what the garbage collector does."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("cryptography", "fabric_protos", "grpclib", "h2", "peer.assembly", "sqlite3")


def said(program: str) -> list[str]:
    """Run a program in an interpreter of its own; return the words that it prints."""
    head = f"import gc, sys\nsys.path[:] = {sys.path!r}\n"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", head + program], check=True, capture_output=True
    )
    return done.stdout.decode().split()


@pytest.mark.parametrize(
    "modules", ["peer.app", "peer.cli.node, peer.cli.running, runtimes.process"]
)
def test_a_runtime_needs_little_of_the_peer(modules: str) -> None:
    assert said(f"import {modules}\nprint(*(set({HEAVY}) & sys.modules.keys()))") == []


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_left_as_it_was(enabled: bool) -> None:
    program = (
        "from peer.app import _import_assembly\n"
        f"{'' if enabled else 'gc.disable()'}\n"
        "before = gc.get_freeze_count()\n"
        "_import_assembly()\n"
        "print(gc.isenabled(), gc.get_freeze_count() == before)\n"
    )
    assert said(program) == [str(enabled), "True"]


def test_a_command_freezes_the_peer_that_it_has_opened() -> None:
    program = (
        "from peer.cli import keep_all\n"
        "before = gc.get_freeze_count()\n"
        "keep_all()\n"
        "print(gc.get_freeze_count() > before)\n"
    )
    assert said(program) == ["True"]
