"""The backends under the contract."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from runtimes.process import link
from tests.contract.harness import FakeHarness, Harness, ProcessHarness
from tests.fakes.runtime import (
    ExitsBeforeReady,
    FailsToStart,
    FakeRuntime,
    HangsInStart,
    HangsInStop,
    NeverReadyRuntime,
)

FAKES = {
    "fake": FakeRuntime,
    "never_ready": NeverReadyRuntime,
    "exits": ExitsBeforeReady,
    "hangs_in_start": HangsInStart,
    "fails_to_start": FailsToStart,
    "hangs_in_stop": HangsInStop,
}


@pytest.fixture(scope="session", autouse=True)
def _covered_keeper() -> None:
    """Let the keeper, a process of its own, take part in a measurement of coverage."""
    coverage = sys.modules.get("coverage")
    if coverage is not None and coverage.Coverage.current() is not None:
        program = Path(__file__).parent / "covered_keeper.py"
        link.KEEPER_COMMAND = (sys.executable, str(program))


@pytest.fixture
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Harness:
    """The backend that the parameter names; `process` where a test names none."""
    name = getattr(request, "param", "process")
    return ProcessHarness(tmp_path) if name == "process" else FakeHarness(FAKES[name]())
