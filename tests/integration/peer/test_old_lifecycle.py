"""Chaincode of a channel without V2_0: installed, instantiated, upgraded through the library."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from fabric_protos.codec import decode
from fabric_protos.protos import ChaincodeQueryResponse
from peer import Peer
from peer.errors import (
    ChannelExists,
    ConfigError,
    DefinitionNotUsable,
    InvalidDefinition,
    NotInstalled,
    PackageError,
    PackageInUse,
    PolicySyntaxError,
    StreamTerminated,
    UnknownChaincode,
    UnknownChannel,
)
from tests.integration.peer.scene import CHANNEL, HERE, Code, processes, watched_peer

OLD = "old"
V1_4_2 = "V1_4_2"


def book(code: Code, says: str) -> Path:
    """Return ledgerbook.py as a program that Go might have built, as lscc knows no Python.

    Where it has nothing else to answer it says what is given here.
    """
    text = (HERE / "ledgerbook.py").read_text()
    assert text.count('return b"ok"') == 1
    program = f"#!{sys.executable}\n" + text.replace('return b"ok"', f'return b"{says}"')
    return code.files({"chaincode": program}, says)


@asynccontextmanager
async def old_peer(data: Path | str = "") -> AsyncIterator[Peer]:
    """Open a peer that has joined a channel of the old lifecycle besides the usual one."""
    async with watched_peer(file_system_path=str(data)) as (peer, _):
        await peer.join_channel(OLD, capability=V1_4_2)
        yield peer


async def get(peer: Peer, name: str, key: str, channel: str = OLD) -> bytes:
    return (await peer.query(channel, name, ["get", key])).payload


async def put(peer: Peer, name: str, key: str, value: str) -> bytes:
    """Write a value and return what the chaincode says to it."""
    result = await peer.invoke(OLD, name, ["put", key, value])
    assert result.committed, result
    return result.payload


async def instantiated(peer: Peer, channel: str = OLD) -> list[tuple[str, str]]:
    answer = await peer.query(channel, "lscc", ["GetChaincodes"])
    found = decode(ChaincodeQueryResponse, answer.payload).chaincodes
    return [(each.name, each.version) for each in found]


async def test_from_instantiation_through_an_upgrade_and_a_restart(
    code: Code, tmp_path: Path
) -> None:
    name, data = code.label, tmp_path / "data"
    async with old_peer(data) as peer:
        package = await peer.install(book(code, "one"), name=name, channels=[OLD])
        assert (package.ccid, package.type) == (f"{name}:1.0", "golang")
        height = peer.ledger(OLD).height
        await peer.instantiate(OLD, name, "1.0", ["put", "key", "of Init"])
        assert peer.ledger(OLD).height == height + 1  # definition and Init's writes together
        assert await get(peer, name, "key") == b"of Init"
        assert await put(peer, name, "kept", "value") == b"one"

        await peer.install(book(code, "two"), name=name, version="2.0", channels=[OLD])
        assert await put(peer, name, "still", "first") == b"one"  # installing upgrades nothing
        await peer.upgrade(OLD, name, "2.0", ["add", "upgrades"])
        assert processes(f"{name}:1.0") == {}
        assert await instantiated(peer) == [(name, "2.0")]
        assert await put(peer, name, "by", "second") == b"two"
        assert [await get(peer, name, key) for key in ("kept", "upgrades")] == [b"value", b"1"]
        assert processes(f"{name}:1.0") == {}

    async with watched_peer(file_system_path=str(data)) as (peer, _):
        assert await get(peer, name, "by") == b"second"
        assert await put(peer, name, "by", "second again") == b"two"
        assert list(processes(f"{name}:1.0")) == []
        await peer.install(book(code, "three"), name=name, version="3.0", channels=[OLD])
        await peer.upgrade(OLD, name, "3.0", ["add", "upgrades"])
        assert await put(peer, name, "by", "third") == b"three"
        assert [await get(peer, name, key) for key in ("kept", "upgrades")] == [b"value", b"2"]
        with pytest.raises(InvalidDefinition, match="version already exists for chaincode"):
            await peer.upgrade(OLD, name, "3.0")
        await peer.upgrade(OLD, name, "1.0", ["add", "upgrades"])  # back again is an upgrade, too
        assert await put(peer, name, "by", "first") == b"one"
        assert await get(peer, name, "upgrades") == b"3"


async def test_what_lscc_refuses_is_an_error_and_changes_nothing(code: Code) -> None:
    name = code.label
    async with old_peer() as peer:
        await peer.install(book(code, "one"), name=name, channels=[OLD])
        with pytest.raises(InvalidDefinition, match=f"could not find chaincode with name '{name}'"):
            await peer.upgrade(OLD, name, "1.0")
        await peer.instantiate(OLD, name, "1.0", ["put", "key", "first"])
        height = peer.ledger(OLD).height
        with pytest.raises(InvalidDefinition, match=f"chaincode with name '{name}' already exists"):
            await peer.instantiate(OLD, name, "1.0", ["put", "key", "second"])
        with pytest.raises(InvalidDefinition, match="version already exists"):
            await peer.upgrade(OLD, name, "1.0", ["put", "key", "second"])
        with pytest.raises(NotInstalled, match=f"'{name}:2.0' not found"):
            await peer.upgrade(OLD, name, "2.0", ["put", "key", "second"])
        with pytest.raises(PolicySyntaxError):
            await peer.instantiate(OLD, name, "1.0", policy="AND('Org1MSP.peer'")
        with pytest.raises(UnknownChannel):
            await peer.instantiate("none", name, "1.0")
        with pytest.raises(InvalidDefinition, match="migrated to the new lifecycle, LSCC is now"):
            await peer.instantiate(CHANNEL, name, "1.0", ["put", "key", "first"])
        assert peer.ledger(OLD).height == height
        assert await get(peer, name, "key") == b"first"


async def test_what_can_be_installed_for_which_channels(code: Code) -> None:
    name = code.label
    async with old_peer() as peer:
        with pytest.raises(PackageError, match="golang, node, java; python needs a channel"):
            await peer.install(code.book(), name=name, channels=[OLD])
        with pytest.raises(InvalidDefinition, match="install for each kind by itself"):
            await peer.install(book(code, "one"), name=name, channels=[OLD, CHANNEL])
        assert peer.packages.list() == []
        # Unless told otherwise, it is the channels with a definition to make.
        await peer.install(book(code, "two"), name=name)
        assert peer.packages.list() == []
        assert (await peer.invoke(CHANNEL, name, ["put", "key", "value"])).payload == b"two"
        with pytest.raises(UnknownChaincode):
            await peer.invoke(OLD, name, ["put", "key", "value"])
        same = book(code, "three")
        for _ in range(2):  # again is fine
            await peer.install(same, name=name, channels=[OLD])
        with pytest.raises(PackageError, match="installed with other content"):
            await peer.install(book(code, "four"), name=name, channels=[OLD])


async def test_one_package_file_on_both_kinds_of_channels(code: Code, tmp_path: Path) -> None:
    name, path = code.label, tmp_path / "deployment.pak"
    async with old_peer() as peer:
        made = await peer.install(book(code, "one"), name=name, channels=[OLD])
        path.write_bytes(made.path.read_bytes())
        await peer.uninstall(made.ccid)
        assert (await peer.install(path)).ccid == made.ccid
        await peer.instantiate(OLD, name, "1.0", ["put", "key", "old"])
        await peer.invoke(CHANNEL, name, ["put", "key", "new"])
        assert await get(peer, name, "key") == b"old"
        assert await get(peer, name, "key", CHANNEL) == b"new"
        assert len(processes(f"{name}:1.0")) > 0


@pytest.mark.parametrize("trouble", ["dies", "is cut off"])
async def test_nothing_is_committed_if_init_fails(code: Code, trouble: str) -> None:
    name = code.label
    async with old_peer() as peer:
        await peer.install(book(code, "one"), name=name, channels=[OLD])
        height = peer.ledger(OLD).height
        if trouble == "dies":
            with pytest.raises(StreamTerminated):
                await peer.instantiate(OLD, name, "1.0", ["exit", "3"])
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.instantiate, OLD, name, "1.0", ["hold"])
                await running(f"{name}:1.0")
                nursery.cancel_scope.cancel()
        assert peer.ledger(OLD).height == height
        assert await instantiated(peer) == []
        with pytest.raises(UnknownChaincode):
            await peer.query(OLD, name, ["get", "key"])
        await peer.instantiate(OLD, name, "1.0", ["put", "key", "later"])
        assert await get(peer, name, "key") == b"later"


async def running(ccid: str) -> None:
    with trio.fail_after(30):
        while not processes(ccid):  # noqa: ASYNC110 - /proc announces nothing
            await trio.sleep(0.01)


async def test_an_upgrade_whose_init_fails_leaves_the_former_version(code: Code) -> None:
    name = code.label
    async with old_peer() as peer:
        await peer.install(book(code, "one"), name=name, channels=[OLD])
        await peer.instantiate(OLD, name, "1.0", ["put", "key", "first"])
        await peer.install(book(code, "two"), name=name, version="2.0", channels=[OLD])
        with pytest.raises(StreamTerminated):
            await peer.upgrade(OLD, name, "2.0", ["exit", "3"])
        assert await instantiated(peer) == [(name, "1.0")]
        assert await put(peer, name, "key", "second") == b"one"


async def test_a_version_that_another_channel_runs_is_not_stopped(code: Code) -> None:
    name, other = code.label, "other"
    async with old_peer() as peer:
        await peer.join_channel(other, capability=V1_4_2)
        for version, says in (("1.0", "one"), ("2.0", "two")):
            source = book(code, says)
            await peer.install(source, name=name, version=version, channels=[OLD, other])
        for channel in (OLD, other):
            await peer.instantiate(channel, name, "1.0", ["put", "key", channel])
        before = processes(f"{name}:1.0")
        await peer.upgrade(OLD, name, "2.0", ["add", "upgrades"])
        assert processes(f"{name}:1.0") == before
        assert await get(peer, name, "key", other) == other.encode()
        assert (await instantiated(peer), await instantiated(peer, other)) == (
            [(name, "2.0")],
            [(name, "1.0")],
        )
        with pytest.raises(PackageInUse, match=name):
            await peer.uninstall(f"{name}:1.0")
        await peer.upgrade(other, name, "2.0", ["add", "upgrades"])
        assert processes(f"{name}:1.0") == {}
        await peer.uninstall(f"{name}:1.0")
        with pytest.raises(NotInstalled):
            await peer.uninstall(f"{name}:1.0")


async def test_uninstalled_and_installed_again(code: Code) -> None:
    name, source = code.label, book(code, "one")
    async with old_peer() as peer:
        await peer.install(source, name=name, channels=[OLD])
        await peer.instantiate(OLD, name, "1.0", ["put", "key", "first"])
        await peer.uninstall(name)
        assert processes(name) == {}
        with pytest.raises(DefinitionNotUsable, match="cannot get package for chaincode"):
            await get(peer, name, "key")
        with pytest.raises(NotInstalled):
            await peer.uninstall(name)
        assert await instantiated(peer) == [(name, "1.0")]
        await peer.install(source, name=name, channels=[OLD])
        assert await get(peer, name, "key") == b"first"


async def test_private_data_of_an_instantiated_chaincode(code: Code) -> None:
    name = code.label
    async with old_peer() as peer:
        for version, says in (("1.0", "one"), ("2.0", "two")):
            source = book(code, says)
            await peer.install(source, name=name, version=version, channels=[OLD])
        await peer.instantiate(OLD, name, "1.0", ["get", "key"], collections=["secrets"])
        result = await peer.invoke(OLD, name, ["put", "key", "value", "secrets"])
        assert result.committed
        await peer.upgrade(OLD, name, "2.0", ["get", "key"])  # without any, the collections stay
        result = await peer.query(OLD, name, ["get", "key", "secrets"])
        assert result.payload == b"value"


async def test_a_channel_is_joined_with_the_capability_that_is_asked_for(code: Code) -> None:
    async with old_peer() as peer:
        await peer.join_channel(OLD)
        await peer.join_channel(OLD, capability=V1_4_2)
        with pytest.raises(ChannelExists):
            await peer.join_channel(OLD, capability="V2_0")
        with pytest.raises(ChannelExists):
            await peer.join_channel(CHANNEL, capability=V1_4_2)
        with pytest.raises(ConfigError, match=r"capability 'V9': expected one of"):
            await peer.join_channel("newer", capability="V9")
        assert peer.channels == [CHANNEL, OLD]
