"""Counterparts: a missing tool chain skips or fails, a broken build leaves nothing, one builds."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.chaincodes import prepare


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("PEER_TEST_REQUIRE", raising=False)
    return tmp_path / "triopeer-tests"


@pytest.mark.parametrize(("library", "tool"), [("golang", "go"), ("node", "npm")])
def test_missing_tool_skips(library: str, tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(pytest.skip.Exception, match=f"{library}: {tool} is not installed"):
        prepare.counterpart(library)


def test_missing_tool_fails_where_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("PEER_TEST_REQUIRE", "node,golang")
    with pytest.raises(pytest.fail.Exception, match="PEER_TEST_REQUIRE names golang"):
        prepare.counterpart("golang")


def test_the_same_inputs_are_built_once_even_at_the_same_time() -> None:
    builds: list[Path] = []

    def build(target: Path) -> None:
        assert list(target.iterdir()) == []
        builds.append(target)
        (target / "product").touch()

    def cached(_: int) -> Path:
        return prepare._cached(prepare.SOURCES / "golang", ["go.mod"], sys.executable, build)

    with ThreadPoolExecutor() as threads:
        targets = set(threads.map(cached, range(8)))
    assert targets == set(builds)
    assert len(builds) == 1
    assert (
        prepare._cached(prepare.SOURCES / "golang", ["go.sum"], sys.executable, build)
        not in targets
    )


def test_a_failed_build_is_done_again() -> None:
    def broken(target: Path) -> None:
        (target / "half").touch()
        raise prepare.BuildBroken("no")

    def build(target: Path) -> None:
        assert list(target.iterdir()) == []

    with pytest.raises(prepare.BuildBroken):
        prepare._cached(prepare.SOURCES / "golang", ["go.mod"], sys.executable, broken)
    prepare._cached(prepare.SOURCES / "golang", ["go.mod"], sys.executable, build)


def test_a_failing_step_tells_its_output(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"]
    with pytest.raises(prepare.FetchFailed, match=r"(?s)exit code 3: the reason"):
        prepare._run(prepare.FetchFailed, command, tmp_path)


def test_a_step_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "STEP_LIMIT_S", 0.1)
    command = [sys.executable, "-c", "import threading; threading.Event().wait()"]
    with pytest.raises(prepare.FetchFailed, match=r"took more than 0\.1 s"):
        prepare._run(prepare.FetchFailed, command, tmp_path)
