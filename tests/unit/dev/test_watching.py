"""What counts as a change, and when it is told."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from peer.dev import watching
from peer.dev.watching import Watcher, difference


def write(path: Path, text: str = "x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


CHANGES: list[tuple[str, Callable[[Path], object], list[str]]] = [
    ("another content of the same size", lambda at: write(at / "main.py", "b"), ["main.py"]),
    ("a new file", lambda at: write(at / "lib" / "new.py"), ["lib/new.py"]),
    ("a file that goes", lambda at: (at / "main.py").unlink(), ["main.py"]),
    (
        "another name",
        lambda at: (at / "main.py").rename(at / "chaincode.py"),
        ["chaincode.py", "main.py"],
    ),
    (
        "another file in its place",
        lambda at: (write(at / "~x"), os.replace(at / "~x", at / "main.py")),
        ["main.py"],
    ),
    ("a file beside", lambda at: write(at.parent / "collections.json"), ["../collections.json"]),
]


@pytest.mark.parametrize(
    ("change", "names"), [each[1:] for each in CHANGES], ids=[e[0] for e in CHANGES]
)
async def test_a_change(change: Callable[[Path], object], names: list[str], tmp_path: Path) -> None:
    code = tmp_path / "code"
    write(code / "main.py", "a")
    os.utime(code / "main.py", ns=(1, 1))
    watcher = Watcher(code, tmp_path / "collections.json")
    before = await watcher.look()
    change(code)
    after = await watcher.change(before)
    assert difference(before, after, code) == names


@pytest.mark.parametrize(
    "name",
    [
        "__pycache__/main.pyc", "node_modules/a/index.js", ".git/HEAD", "venv/bin/python",
        "build/classes/Main.class", "target/main.o", ".main.py.swp", "main.py~",
    ],
)  # fmt: skip
async def test_what_tools_and_editors_leave_is_no_change(name: str, tmp_path: Path) -> None:
    watcher = Watcher(tmp_path)
    before = await watcher.look()
    write(tmp_path / name)
    assert await watcher.look() == before


async def test_what_goes_while_it_is_looked_at_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert await Watcher(tmp_path, tmp_path / "absent").look() == {}


class Scripted(Watcher):
    """Sees what it is told to see; each look takes a moment."""

    def __init__(self, *sizes: int, takes_s: float = 0.0) -> None:
        super().__init__()
        self._sizes = iter(sizes)
        self._takes_s = takes_s

    async def look(self) -> watching.Snapshot:
        await trio.sleep(self._takes_s)
        return {"main.py": (0, next(self._sizes), 0)}


async def test_files_must_have_settled(autojump_clock: object) -> None:
    watcher = Scripted(0, 0, 1, 2, 2)
    before = await watcher.look()
    began = trio.current_time()
    assert await watcher.change(before) == {"main.py": (0, 2, 0)}
    assert trio.current_time() - began == pytest.approx(watching.EVERY_S + 2 * watching.SETTLE_S)


async def test_what_is_as_it_was_once_it_has_settled_is_no_change(autojump_clock: object) -> None:
    """An editor that tries whether it may write here."""
    watcher = Scripted(0, 9, 0, 0, 3, 3)
    before = await watcher.look()
    assert await watcher.change(before) == {"main.py": (0, 3, 0)}


async def test_where_a_look_takes_long_pauses_do_too(autojump_clock: object) -> None:
    watcher = Scripted(0, 0, 1, 1, takes_s=0.5)
    before = await watcher.look()
    began = trio.current_time()
    await watcher.change(before)
    looks_s, pause_s = 3 * 0.5, watching.SHARE * 0.5
    assert trio.current_time() - began == pytest.approx(looks_s + pause_s + watching.SETTLE_S)
