"""A peer as a library: install, invoke, query, and what comes of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import trio

from fabric_protos.codec import decode
from fabric_protos.common import BlockchainInfo
from fabric_protos.protos import ChannelQueryResponse
from fabric_protos.stream import ChaincodeMessageType as Type
from peer import Peer, Result
from peer.client.collections import read_collections
from peer.errors import InvalidDefinition, InvalidInvocation, UnknownChaincode, UnknownChannel
from peer.ledger.api import ValidationCode
from tests.integration.peer.packing import archive, package, tree
from tests.integration.peer.scene import CHANNEL, Code, processes, watched_peer

OTHER = "otherchannel"


def ok(result: Result) -> str:
    assert (result.status, result.message) == (200, "")
    return result.payload.decode()


async def value_of(peer: Peer, name: str, key: str, channel_id: str = CHANNEL) -> str:
    return ok(await peer.query(channel_id, name, ["get", key]))


async def test_invoke_commits_and_query_does_not(code: Code) -> None:
    source = code.book()
    async with watched_peer() as (peer, _):
        await peer.install(source)
        ledger = peer.ledger(CHANNEL)
        height = ledger.height
        result = await peer.invoke(CHANNEL, source.name, ["put", "key", "1"])
        assert (result.committed, result.validation_code) == (True, ValidationCode.VALID)
        assert ledger.height == height + 1
        result = await peer.query(CHANNEL, source.name, ["put", "key", "2"])
        assert (ok(result), result.committed, result.validation_code) == ("ok", False, None)
        assert ledger.height == height + 1
        assert await value_of(peer, source.name, "key") == "1"
        assert len(result.tx_id) == 64


async def test_a_response_of_an_error_is_a_result_and_commits_nothing(code: Code) -> None:
    source = code.book()
    async with watched_peer() as (peer, _):
        await peer.install(source)
        for status, committed in ((399, True), (400, False), (500, False)):
            height = peer.ledger(CHANNEL).height
            result = await peer.invoke(CHANNEL, source.name, ["fail", str(status), "no luck"])
            assert (result.status, result.message) == (status, "no luck")
            assert result.committed is committed
            assert peer.ledger(CHANNEL).height == height + committed
            wanted = "written and dropped" if committed else ""
            assert await value_of(peer, source.name, "failed") == wanted
            await peer.invoke(CHANNEL, source.name, ["put", "failed", ""])


async def test_transient_event_private_data(code: Code) -> None:
    source = code.book()
    async with watched_peer() as (peer, _):
        await peer.install(source, collections=["secrets"])
        name = source.name
        secret = {"secret": b"\x00\xff"}
        result = await peer.invoke(CHANNEL, name, ["transient", "secret"], transient=secret)
        assert result.payload == b"\x00\xff"
        result = await peer.invoke(CHANNEL, name, ["event", "paid", "42"])
        event = result.event
        assert event is not None
        assert (event.event_name, event.payload) == ("paid", b"42")
        assert (event.chaincode_id, event.tx_id) == (name, result.tx_id)
        assert (await peer.invoke(CHANNEL, name, ["put", "k", "private", "secrets"])).committed
        assert ok(await peer.query(CHANNEL, name, ["get", "k", "secrets"])) == "private"
        assert await value_of(peer, name, "k") == ""  # the public key of that name is another
        refused = await peer.query(CHANNEL, name, ["get", "k", "unknown"])
        assert refused.status == 500
        assert f"collection {CHANNEL}/{name}/unknown could not be found" in refused.message


async def test_collections_as_a_file_defines_them(code: Code) -> None:
    source = code.book()
    closed = {"name": "closed", "policy": "OR('SampleOrg.admin')", "memberOnlyRead": True}
    collections = read_collections(json.dumps([closed]))
    async with watched_peer() as (peer, _):
        await peer.install(source, collections=collections)
        refused = await peer.query(CHANNEL, source.name, ["get", "k", "closed"])
        assert "does not have read access permission on privatedata" in refused.message


async def test_a_command_and_variables_of_its_own(code: Code) -> None:
    source = code.book()
    (source / "chaincode.py").rename(source / "program.txt")
    run = ("sh", "-c", 'exec "$PYTHON" program.txt "$0"', "{peer.address}")
    async with watched_peer() as (peer, _):
        env = {"PYTHON": sys.executable, "CORE_CHAINCODE_ID_NAME": "another"}
        package = await peer.install(source, command=run, env=env)
        assert ok(await peer.query(CHANNEL, source.name, ["pid"]))
        assert (package.type, package.command) == ("unknown", run)


async def test_unknown_names_tell_the_known_ones(code: Code) -> None:
    source = code.book()
    async with watched_peer() as (peer, _):
        await peer.install(source)
        with pytest.raises(UnknownChannel) as channel:
            await peer.invoke("nochannel", source.name, ["pid"])
        assert str(channel.value) == (
            f"failed to find ledger for channel: nochannel (this peer has joined: {CHANNEL})"
        )
        with pytest.raises(UnknownChaincode) as chaincode:
            await peer.query(CHANNEL, "nothing", ["pid"])
        assert (chaincode.value.channel_id, chaincode.value.name) == (CHANNEL, "nothing")
        assert "install it first" in str(chaincode.value)
        with pytest.raises(UnknownChannel):
            await peer.install(source, channels=["nochannel"])
        assert processes(code.label) == {}


async def test_init_required(code: Code) -> None:
    source = code.book()
    async with watched_peer() as (peer, _):
        name = source.name
        await peer.install(source, init_required=True)
        with pytest.raises(InvalidInvocation, match="must call as init first"):
            await peer.invoke(CHANNEL, name, ["init_or_not"])
        result = await peer.invoke(CHANNEL, name, ["init_or_not"], is_init=True)
        assert (ok(result), result.committed) == ("init", True)
        with pytest.raises(InvalidInvocation, match="already initialized"):
            await peer.invoke(CHANNEL, name, ["init_or_not"], is_init=True)
        assert ok(await peer.invoke(CHANNEL, name, ["init_or_not"])) == "transaction"
        await peer.install(source, init_required=True, version="2.0")
        with pytest.raises(InvalidInvocation, match="for this version"):
            await peer.query(CHANNEL, name, ["init_or_not"])
        await peer.invoke(CHANNEL, name, ["init_or_not"], is_init=True)
        assert ok(await peer.query(CHANNEL, name, ["init_or_not"])) == "transaction"
        await peer.install(source)
        with pytest.raises(InvalidInvocation, match="does not require initialization"):
            await peer.invoke(CHANNEL, name, ["init_or_not"], is_init=True)


async def test_a_failed_init_leaves_it_uninitialised(code: Code) -> None:
    source = code.book()
    async with watched_peer() as (peer, _):
        await peer.install(source, init_required=True)
        result = await peer.invoke(CHANNEL, source.name, ["fail", "500", "no"], is_init=True)
        assert (result.status, result.committed) == (500, False)
        with pytest.raises(InvalidInvocation, match="must call as init first"):
            await peer.query(CHANNEL, source.name, ["pid"])


async def test_changed_code_gets_a_new_id_and_a_new_process(code: Code) -> None:
    source = code.book()
    async with watched_peer() as (peer, _):
        first = await peer.install(source)
        same = await peer.install(source)
        assert same == first
        pid = ok(await peer.query(CHANNEL, source.name, ["pid"]))
        assert (await peer.invoke(CHANNEL, source.name, ["put", "key", "old"])).committed
        with (source / "chaincode.py").open("a") as file:
            file.write("# changed\n")
        assert ok(await peer.query(CHANNEL, source.name, ["pid"])) == pid  # until installed
        second = await peer.install(source)
        assert second.ccid != first.ccid
        assert processes(source.name) == {}  # nobody can call the old code any more
        assert ok(await peer.query(CHANNEL, source.name, ["pid"])) != pid
        assert await value_of(peer, source.name, "key") == "old"


async def test_replaced_code_runs_on_while_another_name_or_channel_uses_it(code: Code) -> None:
    source = code.book()
    path = source.parent / "book.tar.gz"
    path.write_bytes(package(archive(tree(source)), label=code.label))
    async with watched_peer() as (peer, _):
        await peer.join_channel(OTHER)
        await peer.install(path)
        pid = ok(await peer.query(OTHER, code.label, ["pid"]))
        await peer.install(source, channels=[CHANNEL])
        assert ok(await peer.query(CHANNEL, code.label, ["pid"])) != pid
        assert ok(await peer.query(OTHER, code.label, ["pid"])) == pid
        await peer.install(source)
        assert int(pid) not in processes(code.label)


@pytest.mark.parametrize("prefix", ["src/", ""])
async def test_a_package_of_lifecycle_v2(code: Code, tmp_path: Path, prefix: str) -> None:
    source = code.book()
    path = tmp_path / "book.tar.gz"
    path.write_bytes(package(archive(tree(source, prefix)), label=code.label))
    data = str(tmp_path / "data")
    for number in (1, 2):  # the second time its code is unpacked already
        async with watched_peer(file_system_path=data) as (peer, _):
            installed = await peer.install(path)
            assert (installed.label, installed.type) == (code.label, "python")
            await peer.install(path, name="alias")
            assert ok(await peer.invoke(CHANNEL, "alias", ["add", "count"])) == str(number)
            assert len(processes(code.label)) == 1
            assert await value_of(peer, code.label, "count") == ""  # names have their own state


async def test_a_peer_that_starts_again_launches_what_it_ran(code: Code, tmp_path: Path) -> None:
    path = tmp_path / "book.tar.gz"
    path.write_bytes(package(archive(tree(code.book())), label=code.label))
    data = str(tmp_path / "data")
    async with watched_peer(file_system_path=data) as (peer, _):
        await peer.install(path)
        assert processes(code.label) == {}
    async with watched_peer(file_system_path=data) as (peer, watch):
        await watch.stage(code.label, "ready")
        [process] = processes(code.label)
        assert ok(await peer.query(CHANNEL, code.label, ["pid"])) == str(process)


@pytest.mark.parametrize(
    ("name", "version", "text"),
    [
        ("lscc", "1.0", "name 'lscc' is that of a system chaincode"),
        ("no name", "1.0", "invalid chaincode name 'no name'"),
        ("", "1 0", "invalid chaincode version '1 0'"),
    ],
)
async def test_a_definition_that_is_not_allowed_installs_nothing(
    code: Code, tmp_path: Path, name: str, version: str, text: str
) -> None:
    path = tmp_path / "book.tar.gz"
    path.write_bytes(package(archive(tree(code.book())), label=code.label))
    async with watched_peer() as (peer, _):
        with pytest.raises(InvalidDefinition, match=text):
            await peer.install(path, name=name, version=version)
        assert peer.packages.list() == []


async def test_a_label_that_is_no_name_needs_one(code: Code, tmp_path: Path) -> None:
    path = tmp_path / "book.tar.gz"
    path.write_bytes(package(archive(tree(code.book())), label=f"{code.label}.1"))
    async with watched_peer() as (peer, _):
        with pytest.raises(InvalidDefinition, match="choose another one with `name`"):
            await peer.install(path)
        await peer.install(path, name="book")
        assert await value_of(peer, "book", "key") == ""


async def test_two_channels_are_two_ledgers(code: Code) -> None:
    source = code.book()
    async with watched_peer() as (peer, _):
        await peer.join_channel(OTHER)
        await peer.join_channel(OTHER)
        assert peer.channels == [CHANNEL, OTHER]
        await peer.install(source)
        await peer.invoke(CHANNEL, source.name, ["put", "key", "here"])
        await peer.invoke(OTHER, source.name, ["put", "key", "there"])
        assert await value_of(peer, source.name, "key") == "here"
        assert await value_of(peer, source.name, "key", OTHER) == "there"
        assert len(processes(code.label)) == 1  # one process serves both


async def test_chaincode_calls_chaincode(code: Code) -> None:
    """On its own channel it writes in the caller's transaction; on another one it only reads."""
    caller, callee = code.book("caller"), code.book("callee")
    async with watched_peer() as (peer, _):
        await peer.join_channel(OTHER)
        for source in (caller, callee):
            await peer.install(source)
        await peer.invoke(OTHER, callee.name, ["put", "key", "there"])
        call = ["call", callee.name]
        result = await peer.invoke(CHANNEL, caller.name, [*call, "", "put", "key", "here"])
        assert (ok(result), result.committed) == ("ok", True)
        assert await value_of(peer, callee.name, "key") == "here"
        read = await peer.query(CHANNEL, caller.name, [*call, OTHER, "get", "key"])
        assert ok(read) == "there"
        height = peer.ledger(OTHER).height
        write = await peer.invoke(CHANNEL, caller.name, [*call, OTHER, "put", "key", "changed"])
        assert (ok(write), write.committed) == ("ok", True)
        assert await value_of(peer, callee.name, "key", OTHER) == "there"
        assert peer.ledger(OTHER).height == height
        for wrong, why in (("nothing", "chaincode nothing not found"), (caller.name, "exists")):
            refused = await peer.query(CHANNEL, caller.name, ["call", wrong, "", "pid"])
            assert refused.status == 500
            assert why in refused.message
        nowhere = await peer.query(CHANNEL, caller.name, [*call, "nochannel", "pid"])
        assert "Failed to get policy manager for channel [nochannel]" in nowhere.message


async def test_a_conflict_of_concurrent_invokes_is_told_and_nothing_is_lost(code: Code) -> None:
    source = code.book()
    async with watched_peer() as (peer, watch):
        await peer.install(source)
        results: list[Result] = []

        async def add() -> None:
            results.append(await peer.invoke(CHANNEL, source.name, ["add_when", "n", "both"]))

        async with trio.open_nursery() as invokes:
            for _ in range(2):
                invokes.start_soon(add)
            for _ in range(2):
                await watch.message(Type.GET_STATE, b"n")
            await peer.query(CHANNEL, source.name, ["release", "both"])
        codes = sorted(result.validation_code for result in results)
        assert codes == [ValidationCode.VALID, ValidationCode.MVCC_READ_CONFLICT]
        assert [result.status for result in results] == [200, 200]
        assert await value_of(peer, source.name, "n") == "1"
        assert ok(await peer.invoke(CHANNEL, source.name, ["add", "n"])) == "2"


async def test_many_invokes_at_once_count_right(code: Code) -> None:
    """Retrying what conflicts ends with every increment counted once."""
    source = code.book()
    async with watched_peer() as (peer, _):
        await peer.install(source)

        async def add() -> None:
            while not (await peer.invoke(CHANNEL, source.name, ["add", "n"])).committed:
                pass

        async with trio.open_nursery() as invokes:
            for _ in range(20):
                invokes.start_soon(add)
        assert await value_of(peer, source.name, "n") == "20"


async def test_a_system_chaincode_without_a_channel() -> None:
    async with watched_peer() as (peer, _):
        await peer.join_channel(OTHER)
        result = await peer.query("", "cscc", ["GetChannels"])
        found = decode(ChannelQueryResponse, result.payload)
        assert [channel.channel_id for channel in found.channels] == [CHANNEL, OTHER]
        refused = await peer.query(CHANNEL, "cscc", ["JoinChain"])
        assert (refused.status, refused.message) == (500, "Incorrect number of arguments, 1")
        result = await peer.query(CHANNEL, "qscc", ["GetChainInfo", CHANNEL])
        info = decode(BlockchainInfo, result.payload)
        assert info.height == 1
