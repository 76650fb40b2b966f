"""How a chaincode starts under a debugger, and who is connected."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from peer.dev import debugging
from peer.errors import PackageError


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "main.py").write_text("")
    return tmp_path


def test_the_command(code: Path) -> None:
    interpreter, *_, entry, flag, address = debugging.command(code, 5678)
    assert interpreter == sys.executable
    assert (entry, flag, address) == ("main.py", "-peer.address", "{peer.address}")
    own = code / "venv" / "bin" / "python"
    (code / "venv" / "lib" / "python3.11" / "site-packages" / "debugpy").mkdir(parents=True)
    assert debugging.command(code, 5678)[0] == str(own)


def test_what_cannot_be_debugged_says_what_to_do(
    code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debugging, "find_spec", lambda name: None)
    with pytest.raises(PackageError, match=r"no debugpy for .*: pip install debugpy"):
        debugging.command(code, 5678)
    (code / "requirements.txt").write_text("x")
    with pytest.raises(PackageError, match="no venv that a debugger could use: python -m venv"):
        debugging.command(code, 5678)
    (code / "venv").mkdir()
    with pytest.raises(PackageError, match="venv/bin/python -m pip install debugpy"):
        debugging.command(code, 5678)
    (code / "main.py").unlink()
    with pytest.raises(PackageError, match=r"holds neither chaincode\.py nor main\.py"):
        debugging.command(code, 5678)


def test_attached_is_who_is_connected() -> None:
    with socket.create_server((debugging.HOST, 0)) as listener:
        port = listener.getsockname()[1]
        assert not debugging.is_attached(port)
        with socket.create_connection((debugging.HOST, port)):
            near, _ = listener.accept()
            with near:
                assert debugging.is_attached(port)
        assert not debugging.is_attached(port)
