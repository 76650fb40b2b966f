"""Undoing an installation: what is stopped, removed, refused and kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from fabric_protos.stream import ChaincodeMessageType as Type
from peer import Peer
from peer.errors import (
    DefinitionNotUsable,
    NotInstalled,
    PackageError,
    PackageInUse,
    StreamTerminated,
)
from tests.integration.peer.packing import archive, package, tree
from tests.integration.peer.scene import CHANNEL, Code, processes, watched_peer

OTHER = "otherchannel"


def builds(directory: Path) -> list[str]:
    return os.listdir(directory / "lifecycle" / "builds")


def packed(code: Code, directory: Path, name: str) -> Path:
    """Write a package file of the book; it has to be unpacked to run."""
    path = directory / f"{name}.tar.gz"
    path.write_bytes(package(archive(tree(code.book(name))), label=f"{code.label}{name}"))
    return path


async def text(peer: Peer, name: str, *args: str) -> str:
    result = await peer.invoke(CHANNEL, name, args)
    assert (result.status, result.message) == (200, "")
    return result.payload.decode()


async def test_a_name_goes_with_its_package_and_its_process(code: Code, tmp_path: Path) -> None:
    path = packed(code, tmp_path, "a")
    home = tmp_path / "home"
    async with watched_peer(file_system_path=str(home)) as (peer, _):
        await peer.join_channel(OTHER)
        installed = await peer.install(path, name="book")
        assert await text(peer, "book", "put", "key", "1") == "ok"
        assert builds(home)
        await peer.uninstall("book")
        assert not processes(code.label)
        assert peer.packages.list() == []
        assert builds(home) == []
        for channel_id in (CHANNEL, OTHER):
            with pytest.raises(DefinitionNotUsable, match="is not installed"):
                await peer.query(channel_id, "book", ["get", "key"])
        for gone in ("book", installed.ccid):
            with pytest.raises(NotInstalled) as caught:
                await peer.uninstall(gone)
            assert caught.value.ccid == gone
        await peer.install(path, name="book")
        assert await text(peer, "book", "get", "key") == "1"  # what was committed stays


async def test_a_package_goes_with_its_last_name(code: Code, tmp_path: Path) -> None:
    path = packed(code, tmp_path, "a")
    async with watched_peer() as (peer, _):
        ccid = (await peer.install(path, name="one")).ccid
        await peer.install(path, name="two")
        with pytest.raises(PackageInUse, match=r"runs the chaincode one, two") as caught:
            await peer.uninstall(ccid)
        assert (caught.value.ccid, caught.value.names) == (ccid, ("one", "two"))
        await peer.uninstall("one")
        assert await text(peer, "two", "put", "key", "1") == "ok"
        await peer.uninstall("two")
        assert peer.packages.list() == []


async def test_a_package_that_nobody_runs_goes_by_its_id(code: Code, tmp_path: Path) -> None:
    former, later = packed(code, tmp_path, "a"), packed(code, tmp_path, "b")
    async with watched_peer() as (peer, _):
        ccid = (await peer.install(former, name="book")).ccid
        await peer.install(later, name="book")
        assert ccid in [found.ccid for found in peer.packages.list()]  # it could be chosen again
        await peer.uninstall(ccid)
        assert ccid not in [found.ccid for found in peer.packages.list()]
        assert await text(peer, "book", "put", "key", "1") == "ok"


async def test_a_directory_that_changed_leaves_nothing_of_its_former_self(code: Code) -> None:
    source = code.book()
    async with watched_peer() as (peer, _):
        former = await peer.install(source)
        assert await text(peer, source.name, "put", "key", "1") == "ok"
        (source / "more.py").write_text("")
        later = await peer.install(source)
        with pytest.raises(PackageError, match="not found"):
            await peer.packages.find(former.ccid)
        assert (await peer.packages.find(later.ccid)).path == source
        await peer.uninstall(source.name)
        assert source.is_dir()  # it is its author's
        with pytest.raises(NotInstalled):
            await peer.uninstall(later.ccid)


async def test_calls_under_way_end(code: Code) -> None:
    source = code.book()
    async with watched_peer() as (peer, watch), trio.open_nursery() as nursery:
        await peer.install(source)

        async def call() -> None:
            with pytest.raises(StreamTerminated):
                await peer.query(CHANNEL, source.name, ["hold"])

        nursery.start_soon(call)
        await watch.message(Type.GET_STATE, b"holding")
        await peer.uninstall(source.name)
    assert not processes(code.label)


async def test_a_cancelled_removal_is_none_or_whole(code: Code, tmp_path: Path) -> None:
    path = packed(code, tmp_path, "a")
    async with watched_peer() as (peer, _):
        await peer.install(path, name="book")
        with trio.CancelScope() as scope:
            scope.cancel()
            await peer.uninstall("book")
        assert scope.cancelled_caught
        assert await text(peer, "book", "put", "key", "1") == "ok"  # it had not begun
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.uninstall, "book")
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert not processes(code.label)
        assert peer.packages.list() == []
