"""Finding a backend by name."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from runtimes import docker, podman
from runtimes.api import RuntimeUnavailable
from runtimes.loader import GROUP, OWN, UnknownRuntime, load
from runtimes.process import backend


def test_the_process_backend_is_installed() -> None:
    assert load("process") is backend


def test_no_distribution_replaces_a_backend_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [EntryPoint(name, "os:getcwd", GROUP) for name in (*OWN, "another")]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: entries)
    assert {name: load(name) for name in OWN} == {
        "docker": docker.backend,
        "podman": podman.backend,
        "process": backend,
    }
    assert load("another") is os.getcwd


def test_an_unknown_name_lists_what_is_installed() -> None:
    with pytest.raises(UnknownRuntime) as caught:
        load("proces")
    assert caught.value.name == "proces"
    assert "process" in caught.value.installed
    assert str(caught.value).startswith("there is no runtime 'proces'; installed are: ")
    assert str(UnknownRuntime("x", [])) == "there is no runtime 'x'; installed are: none"


@pytest.mark.parametrize("target", ["no.such.module:backend", "runtimes.process:no_such_name"])
def test_a_backend_that_cannot_be_imported_says_why(
    monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    entry = EntryPoint("broken", target, GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry])
    with pytest.raises(RuntimeUnavailable, match=r"runtime 'broken' cannot be loaded: .*no"):
        load("broken")


def test_importing_the_loader_does_not_import_what_it_needs_to_load() -> None:
    program = (
        f"import sys; sys.path[:] = {sys.path!r}; import runtimes.loader\n"
        "assert not {'importlib.metadata', 'trio'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True)
