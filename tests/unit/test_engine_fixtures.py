"""Engines that cannot be had: skipped, or failed where they are required."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.engines import rootfs
from tests.engines.engine import ENGINES
from tests.engines.fixtures import provided


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("PEER_TEST_REQUIRE", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path / "triopeer-tests"


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_that_nobody_asked_for_is_not_made(name: str) -> None:
    with pytest.raises(pytest.skip.Exception, match=f"PEER_TEST_REQUIRE does not name {name}"):
        next(provided(name))


@pytest.mark.parametrize("name", ENGINES)
def test_a_missing_engine_fails_and_names_the_programs(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("PEER_TEST_REQUIRE", f"node,{name}")
    expected = f"PEER_TEST_REQUIRE names {name}: not installed: .*runc"
    with pytest.raises(pytest.fail.Exception, match=expected):
        next(provided(name))


def test_a_user_without_rights_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PEER_TEST_REQUIRE", "docker")
    with pytest.raises(pytest.fail.Exception, match="a private engine needs root"):
        next(provided("docker"))


def test_images_need_their_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(rootfs.Unavailable, match="debootstrap is not installed"):
        rootfs.archive()


def program(directory: Path, name: str, script: str) -> None:
    file = directory / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def test_a_failed_build_leaves_nothing_and_shows_the_output(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("debootstrap", "npm", "tar", "chroot"):
        program(tmp_path, name, "echo mirror is down; exit 4")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(
        rootfs, "_install_wheels", lambda target, _: (target / "go").mkdir(parents=True)
    )
    with pytest.raises(rootfs.Unavailable, match="npm install --global failed: mirror is down"):
        rootfs.archive()
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def test_an_archive_is_built_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builds = []

    def build(scratch: Path, requirements: list[str]) -> Path:
        assert any(requirement.startswith("trio") for requirement in requirements)
        (scratch / "root").mkdir()
        builds.append(scratch)
        return scratch / "root"

    monkeypatch.setattr(rootfs, "_build", build)
    monkeypatch.setattr(rootfs, "_require_programs", lambda: None)
    assert rootfs.archive() == rootfs.archive()
    assert len(builds) == 1
    assert sorted(path.suffix for path in cache.iterdir()) == [".lock", ".tar"]
