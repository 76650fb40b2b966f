"""Fabric's commands against a peer and its orderer, as people and scripts use them."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from fabric_protos.codec import decode, encode
from fabric_protos.common import (
    Block,
    ChannelHeader,
    Config,
    ConfigGroup,
    ConfigUpdate,
    ConfigUpdateEnvelope,
    ConfigValue,
    Envelope,
    Header,
    HeaderType,
    Payload,
)
from fabric_protos.orderer import BatchSize
from peer.channel.configtx import genesis_config
from peer.lifecycle.legacy import describe_deployment
from peer.lifecycle.packages import package_id, read_package

from .commands import EXAMPLE, MSP_ID, ROOT, Site, command, site, variables

CHANNEL = "mychannel"
TX = r"txid \[[0-9a-f]{64}\]"


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("peer")) as opened:
        yield opened


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of the example."""
    path = tmp_path_factory.mktemp("packages") / "assets.tar.gz"
    done = command(
        "lifecycle", "chaincode", "package", path,
        "--path", EXAMPLE, "--lang", "python", "--label", "assets_1.0",
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return path


@pytest.fixture(scope="module")
def package_id_of(package: Path) -> str:
    return package_id("assets_1.0", package.read_bytes())


@pytest.fixture(scope="module")
def defined(at: Site, package: Path, package_id_of: str) -> str:
    """The example, installed and defined as ``assets`` by these commands; what they said."""
    said = at.ok("lifecycle", "chaincode", "install", package)[1]
    flags = ("-C", CHANNEL, "-n", "assets", "-v", "1.0", "--sequence", "1", "-o", at.orderer)
    said += at.ok(
        "lifecycle", "chaincode", "approveformyorg", *flags, "--package-id", package_id_of
    )[1]
    peers = ("--peerAddresses", at.address)
    return said + at.ok("lifecycle", "chaincode", "commit", *flags, *peers)[1]


def call(name: str, *args: str) -> tuple[str, ...]:
    return ("-C", CHANNEL, "-n", name, "-c", json.dumps({"Args": args}))


# lifecycle chaincode


def test_packages(package: Path, package_id_of: str, tmp_path: Path) -> None:
    found = read_package(package.read_bytes())
    assert (found.label, found.type, found.ccid) == ("assets_1.0", "python", package_id_of)
    done = command("lifecycle", "chaincode", "calculatepackageid", package)
    assert (done.returncode, done.stdout) == (0, f"{package_id_of}\n")
    done = command("lifecycle", "chaincode", "calculatepackageid", package, "-O", "json")
    assert json.loads(done.stdout) == {"package_id": package_id_of}
    (tmp_path / "no.tar.gz").write_bytes(b"no archive")
    for args, said in (
        (["calculatepackageid", tmp_path / "none.tar.gz"], "No such file"),
        (["calculatepackageid", tmp_path / "no.tar.gz"], "Error: "),
        (["package", tmp_path / "a", "-p", EXAMPLE, "-l", "cobol", "--label", "a"], "COBOL"),
        (["package", tmp_path / "a", "-p", EXAMPLE, "-l", "node", "--label", "-"], "invalid label"),
        (["package", tmp_path / "x/a", "-p", EXAMPLE, "-l", "node", "--label", "a"], "No such"),
    ):
        done = command("lifecycle", "chaincode", *args)
        assert (done.returncode, done.stdout) == (1, "")
        assert said in done.stderr


def test_a_go_package_is_of_the_whole_module(tmp_path: Path) -> None:
    (tmp_path / "go.mod").write_text("module example.com/org/cc\n\ngo 1.21\n")
    (tmp_path / "lib.go").write_text("package cc\n")
    (tmp_path / "cmd").mkdir()
    (tmp_path / "cmd" / "main.go").write_text("package main\n")
    target = tmp_path / "out.tgz"
    flags = ("--path", tmp_path / "cmd", "--label", "cc")
    assert command("lifecycle", "chaincode", "package", target, *flags).returncode == 0
    found = read_package(target.read_bytes())
    assert (found.type, found.module) == ("golang", "example.com/org/cc/cmd")


def test_installing(
    at: Site, defined: str, package: Path, package_id_of: str, tmp_path: Path
) -> None:
    assert 'Installed remotely: response:<status:200 payload:"' in defined
    assert f"Chaincode code package identifier: {package_id_of}\n" in defined
    printed, _ = at.ok("lifecycle", "chaincode", "queryinstalled")
    assert printed == (
        f"Installed chaincodes on peer:\nPackage ID: {package_id_of}, Label: assets_1.0\n"
    )
    printed, _ = at.ok("lifecycle", "chaincode", "queryinstalled", "--output", "json")
    assert json.loads(printed) == {
        "installed_chaincodes": [
            {
                "package_id": package_id_of,
                "label": "assets_1.0",
                "references": {CHANNEL: {"chaincodes": [{"name": "assets", "version": "1.0"}]}},
            }
        ]
    }
    fetch = ("getinstalledpackage", "--output-directory", tmp_path, "--package-id")
    assert at.ok("lifecycle", "chaincode", *fetch, package_id_of)[0] == ""
    assert (tmp_path / f"{package_id_of}.tar.gz").read_bytes() == package.read_bytes()
    assert "query failed with status: 404" in at.refused("lifecycle", "chaincode", *fetch, "no:1")
    again = at.refused("lifecycle", "chaincode", "install", package)
    assert again.startswith("chaincode install failed with status: 500 - ")
    assert f"(package ID '{package_id_of}')" in again


def test_definitions(at: Site, defined: str, package_id_of: str) -> None:
    assert re.search(rf"{TX} committed with status \(VALID\) at {at.address}", defined)
    assert len(re.findall(TX, defined)) == 2
    flags = ("-C", CHANNEL, "-n", "assets", "-v", "2.0", "--sequence", "2")
    printed, _ = at.ok("lifecycle", "chaincode", "checkcommitreadiness", *flags)
    assert printed == (
        "Chaincode definition for chaincode 'assets', version '2.0', sequence '2' on channel "
        f"'{CHANNEL}' approval status by org:\n{MSP_ID}: false\n"
    )
    printed, _ = at.ok("lifecycle", "chaincode", "checkcommitreadiness", *flags, "-O", "json")
    assert printed == f'{{\n\t"approvals": {{\n\t\t"{MSP_ID}": false\n\t}}\n}}\n'
    printed, _ = at.ok("lifecycle", "chaincode", "querycommitted", "-C", CHANNEL, "-n", "assets")
    told = "Version: 1.0, Sequence: 1, Endorsement Plugin: escc, Validation Plugin: vscc"
    assert printed == (
        f"Committed chaincode definition for chaincode 'assets' on channel '{CHANNEL}':\n"
        f"{told}, Approvals: [{MSP_ID}: true]\n"
    )
    printed, _ = at.ok("lifecycle", "chaincode", "querycommitted", "--channelID", CHANNEL)
    assert printed == (
        f"Committed chaincode definitions on channel '{CHANNEL}':\nName: assets, {told}\n"
    )
    printed, _ = at.ok("lifecycle", "chaincode", "querycommitted", "-C", CHANNEL, "-O", "json")
    [found] = json.loads(printed)["chaincode_definitions"]
    assert base64.b64decode(found.pop("validation_parameter")).endswith(b"/Endorsement")
    assert found == {
        "name": "assets",
        "sequence": 1,
        "version": "1.0",
        "endorsement_plugin": "escc",
        "validation_plugin": "vscc",
        "collections": {},
    }
    approved = ("lifecycle", "chaincode", "queryapproved", "-C", CHANNEL, "-n", "assets")
    printed, _ = at.ok(*approved, "--sequence", "1")
    assert printed == (
        f"Approved chaincode definition for chaincode 'assets' on channel '{CHANNEL}':\n"
        f"sequence: 1, version: 1.0, init-required: false, package-id: {package_id_of}, "
        "endorsement plugin: escc, validation plugin: vscc\n"
    )
    source = json.loads(at.ok(*approved, "-O", "json")[0])["source"]
    assert source == {"Type": {"LocalPackage": {"package_id": package_id_of}}}


def test_a_definition_with_everything(at: Site, tmp_path: Path) -> None:
    """Approved without a package, without waiting; then the channel's, then called."""
    collections = tmp_path / "collections.json"
    policy = f"OR('{MSP_ID}.member')"
    secret = {"name": "secret", "policy": policy, "blockToLive": 7, "memberOnlyRead": True}
    collections.write_text(json.dumps([secret]))
    flags = (
        "-C", CHANNEL, "-n", "full", "-v", "7", "--sequence", "1", "--init-required",
        "--signature-policy", policy, "--collections-config", str(collections), "-o", at.orderer,
    )  # fmt: skip
    approve = ("lifecycle", "chaincode", "approveformyorg", *flags)
    info = at.ok("channel", "getinfo", "-c", CHANNEL)[0].partition(": ")[2]
    assert "committed" not in at.ok(*approve, "--waitForEvent=false")[1]
    next_block = str(json.loads(info)["height"])
    at.ok("channel", "fetch", next_block, tmp_path / "approval.block", "-c", CHANNEL)
    at.ok("lifecycle", "chaincode", "commit", *flags)
    printed, _ = at.ok(
        "lifecycle", "chaincode", "querycommitted", "-C", CHANNEL, "-n", "full", "-O", "json"
    )
    found = json.loads(printed)
    assert (found["version"], found["init_required"]) == ("7", True)
    [collection] = found["collections"]["config"]
    static = collection["static_collection_config"]
    assert (static["name"], static["block_to_live"], static["member_only_read"]) == (
        "secret", 7, True
    )  # fmt: skip
    other = at.refused(*approve, "-v", "8")
    assert "attempted to redefine the current committed sequence (1) for namespace full" in other
    refused = at.refused("lifecycle", "chaincode", "commit", *flags)
    assert refused.startswith("proposal failed with status: 500 - ")
    collections.write_text('[{"name": "x", "policy": "OR("}]')
    assert "invalid collection configuration" in at.refused(*approve)
    both = (*approve, "--channel-config-policy", "x")
    assert 'cannot specify both "--signature-policy"' in at.refused(*both)


# chaincode


def test_invoke_and_query(at: Site, defined: str) -> None:
    peers = ("--peerAddresses", at.address)
    invoke = ("chaincode", "invoke", "-o", at.orderer)
    printed, said = at.ok(*invoke, *call("assets", "put", "a", "b\x80"), *peers, "--waitForEvent")
    assert printed == ""
    assert len(re.findall(rf"{TX} committed with status \(VALID\) at {at.address}", said)) == 1
    assert "Chaincode invoke successful. result: status:200\n" in said
    query = ("chaincode", "query")
    done = at(*query, *call("assets", "get", "a"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "b\x80\n", "")
    assert at.ok(*query, *call("assets", "get", "a"), "-x")[0] == "62c280\n"
    assert at.ok(*query, *call("assets", "get", "a"), "--raw")[0] == "[98 194 128]\n"
    function = '{"function":"InitLedger","args":[]}'
    _, said = at.ok(*invoke, "-C", CHANNEL, "-n", "assets", "-c", function)
    assert "committed" not in said
    _, said = at.ok(*invoke, *call("assets", "InitLedger"), "--waitForEvent=true")
    assert 'payload:"' not in said


def test_calls_that_fail(at: Site, defined: str) -> None:
    absent = call("assets", "ReadAsset", "no\nne")
    query, invoke = ("chaincode", "query"), ("chaincode", "invoke", "-o", at.orderer)
    told = 'response: status:404 message:"the asset no\\nne does not exist"'
    assert at.refused(*query, *absent) == f"endorsement failure during query. {told}"
    height = at.ok("channel", "getinfo", "-c", CHANNEL)[0]
    assert at.refused(*invoke, *absent) == f"endorsement failure during invoke. {told}"
    assert at.ok("channel", "getinfo", "-c", CHANNEL)[0] == height
    unknown = at.refused(*query, *call("nothing", "f"))
    assert unknown.startswith('endorsement failure during query. response: status:500 message:"')
    two = ("--peerAddresses", at.address) * 2
    assert at.refused(*query, *absent, *two) == (
        "error validating peer connection parameters: "
        "'query' command can only be executed against one peer. received 2"
    )
    assert at.refused("lifecycle", "chaincode", "queryinstalled", *two) == (
        "failed to validate peer connection parameters: "
        "'queryinstalled' command supports one peer. 2 peers provided"
    )
    nowhere = {"CORE_PEER_ADDRESS": "127.0.0.1:1"}
    assert at.refused(*query, *absent, env=nowhere).startswith(
        "error getting endorser client for query: endorser client failed to connect to "
        "127.0.0.1:1: failed to create new connection: "
    )
    assert at.refused("chaincode", "invoke", "-o", "127.0.0.1:1", *absent).startswith(
        "error getting broadcast client: orderer client failed to connect to 127.0.0.1:1: "
    )
    assert "are not compatible" in at.refused(*query, *absent, "-x", "-r")


def test_an_identity_that_may_not(at: Site, defined: str) -> None:
    """An orderer's administrator is no member of the channel's application."""
    orderer = at.network / "ordererOrganizations" / "example.com"
    stranger = {
        "CORE_PEER_LOCALMSPID": "Orderer",
        "CORE_PEER_MSPCONFIGPATH": str(orderer / "users" / "Admin@example.com" / "msp"),
    }
    query = at.refused("chaincode", "query", *call("assets", "get", "a"), env=stranger)
    assert query.startswith("error endorsing query: rpc error: code = Unknown desc = ")
    assert query.endswith(" - proposal response: <nil>")
    told = at.refused("channel", "fetch", "newest", "-c", CHANNEL, env=stranger)
    assert told == "can't read the block: FORBIDDEN"


def test_nobody_to_sign_as(at: Site) -> None:
    nobody = {"CORE_PEER_FILESYSTEMPATH": "", "CORE_PEER_ADDRESS": at.address}
    done = at("channel", "list", env=nobody)
    assert (done.returncode, done.stdout) == (2, "")
    assert "peer.mspConfigPath is not set" in done.stderr
    missing = {"CORE_PEER_MSPCONFIGPATH": "/nowhere/msp"}
    assert at.refused("channel", "list", env=missing).startswith("/nowhere/msp/signcerts: ")


# channel


def test_channels(at: Site, tmp_path: Path) -> None:
    assert at.ok("channel", "list")[0].splitlines()[:2] == ["Channels peers has joined: ", CHANNEL]
    printed, _ = at.ok("channel", "getinfo", "-c", CHANNEL)
    assert printed.startswith('Blockchain info: {"height":')
    info = json.loads(printed.removeprefix("Blockchain info: "))
    assert info.keys() >= {"height", "currentBlockHash"}
    made = command("network", "create", tmp_path / "net", "--channel", "joined")
    assert made.returncode == 0
    block = tmp_path / "net" / "joined.block"
    printed, said = at.ok("channel", "join", "-b", block)
    assert printed == ""
    assert said.endswith("Successfully submitted proposal to join channel\n")
    assert "joined" in at.ok("channel", "list")[0].splitlines()
    assert at.refused("channel", "join", "-b", block).startswith(
        "proposal failed (err: bad proposal response 500: "
    )
    assert "No such file" in at.refused("channel", "join", "-b", tmp_path / "none.block")
    told = at.refused("channel", "getinfo", "-c", "absent")
    assert told.startswith("received bad response, status 500: ")


@pytest.mark.parametrize("source", ["peer", "orderer"])
def test_blocks_are_fetched(at: Site, defined: str, tmp_path: Path, source: str) -> None:
    flags = ("-c", CHANNEL) if source == "peer" else ("-c", CHANNEL, "-o", at.orderer)
    genesis = at.peer.run(partial(_block, at, 0))
    for which, name in (
        ("oldest", "mychannel_oldest.block"),
        ("0", "mychannel_0.block"),
        ("config", "mychannel_config.block"),
    ):
        done = at("channel", "fetch", which, *flags, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, "")
        assert "Received block: 0\n" in done.stderr
        fetched = decode(Block, (tmp_path / name).read_bytes())
        assert (fetched.header, fetched.data) == (genesis.header, genesis.data)
    target = tmp_path / "named.block"
    at.ok("channel", "fetch", "newest", target, *flags)
    newest = decode(Block, target.read_bytes()).header
    assert newest is not None
    assert newest.number > 0
    assert at.refused("channel", "fetch", "first", *flags) == "fetch target illegal: first"
    assert at.refused("channel", "fetch", "99999", *flags) == "can't read the block: NOT_FOUND"


async def _block(at: Site, number: int) -> Block:
    block = await at.peer.value.ledger(CHANNEL).block_by_number(number)
    assert block is not None
    return block


def smaller_blocks(group: ConfigGroup, count: int) -> ConfigUpdate:
    """Return an update of the orderer's batch size."""
    orderer = group.groups["Orderer"]
    old = orderer.values["BatchSize"]
    size = decode(BatchSize, old.value)
    size.max_message_count = count
    new = ConfigValue(version=old.version + 1, value=encode(size), mod_policy=old.mod_policy)
    return ConfigUpdate(
        channel_id=CHANNEL,
        read_set=ConfigGroup(groups={"Orderer": ConfigGroup(version=orderer.version)}),
        write_set=ConfigGroup(
            groups={"Orderer": ConfigGroup(version=orderer.version, values={"BatchSize": new})}
        ),
    )


def update_file(update: ConfigUpdate, path: Path) -> Path:
    """Write what Fabric's configtxlator makes of an update."""
    header = encode(ChannelHeader(type=int(HeaderType.CONFIG_UPDATE), channel_id=CHANNEL))
    data = encode(ConfigUpdateEnvelope(config_update=encode(update)))
    payload = encode(Payload(header=Header(channel_header=header), data=data))
    path.write_bytes(encode(Envelope(payload=payload)))
    return path


def test_a_configuration_is_updated(at: Site, tmp_path: Path) -> None:
    def config() -> Config:
        block = tmp_path / "config.block"
        at.ok("channel", "fetch", "config", block, "-c", CHANNEL)
        data = decode(Block, block.read_bytes()).data
        assert data is not None
        return genesis_config(CHANNEL, decode(Envelope, data.data[0]))

    before = config()
    assert before.channel_group is not None
    file = update_file(smaller_blocks(before.channel_group, 3), tmp_path / "update.pb")
    refused = at.refused("channel", "update", "-c", CHANNEL, "-f", file, "-o", at.orderer)
    assert refused.startswith("got unexpected status: BAD_REQUEST -- ")
    orderer = at.network / "ordererOrganizations" / "example.com" / "users"
    admin = {
        "CORE_PEER_LOCALMSPID": "Orderer",
        "CORE_PEER_MSPCONFIGPATH": str(orderer / "Admin@example.com" / "msp"),
    }
    assert at.ok("channel", "signconfigtx", "-f", file, env=admin) == ("", "")
    printed, said = at.ok("channel", "update", "-c", CHANNEL, "-f", file, "-o", at.orderer)
    assert printed == ""
    assert said.endswith("Successfully submitted channel update\n")
    after = config()
    assert after.sequence == before.sequence + 1
    assert after.channel_group is not None
    size = decode(BatchSize, after.channel_group.groups["Orderer"].values["BatchSize"].value)
    assert size.max_message_count == 3
    stale = at.refused("channel", "update", "-c", CHANNEL, "-f", file, "-o", at.orderer)
    assert "BAD_REQUEST" in stale
    other = at.refused("channel", "update", "-c", "other", "-f", file, "-o", at.orderer)
    assert other == f"mismatched channel ID {CHANNEL} != other"


def test_a_channel_that_the_orderer_does_not_make(at: Site, tmp_path: Path) -> None:
    update = ConfigUpdate(channel_id=CHANNEL, read_set=ConfigGroup(), write_set=ConfigGroup())
    file = update_file(update, tmp_path / "create.pb")
    flags = ("-c", CHANNEL, "-f", file, "-o", at.orderer)
    refused = at.refused("channel", "create", *flags)
    assert refused.startswith("got unexpected status: BAD_REQUEST -- ")
    assert "no orderer is given (-o)" in at.refused("channel", "create", *flags[:4])
    (tmp_path / "no.pb").write_bytes(b"\xff")
    refused = at.refused("channel", "create", "-c", "c", "-f", tmp_path / "no.pb", "-o", at.orderer)
    assert refused.startswith("it is no configuration transaction: ")


# chaincode, before lifecycle v2


def test_deployment_specs(at: Site, tmp_path: Path) -> None:
    plain, owned, signed = (tmp_path / name for name in ("plain.cds", "owned.cds", "signed.cds"))
    flags = ("-n", "old", "-v", "1", "-p", EXAMPLE, "-l", "node")
    assert at.ok("chaincode", "package", plain, *flags) == ("", "")
    policy = ("-i", f"AND('{MSP_ID}.admin')")
    assert at.ok("chaincode", "package", owned, *flags, "-s", "-S", *policy) == ("", "")
    printed, _ = at.ok("chaincode", "signpackage", owned, signed)
    assert printed == f"Wrote signed package to {signed} successfully\n"
    found = [describe_deployment(path.read_bytes()) for path in (plain, owned, signed)]
    assert {(each.name, each.version) for each in found} == {("old", "1")}
    assert [bool(each.instantiation_policy) for each in found] == [False, True, True]
    assert len({each.id for each in found}) == 3
    assert "no package for owners" in at.refused("chaincode", "signpackage", plain, signed)
    assert "needs a channel with V2_0" in at.refused(
        "chaincode", "package", plain, *flags[:-1], "python"
    )


def test_the_old_lifecycle(at: Site, tmp_path: Path) -> None:
    """A spec without code would not build; so what a chaincode in Node needs is there."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "package.json").write_text('{"name":"old","scripts":{"start":"node index.js"}}')
    (code / "index.js").write_text("")
    flags = ("-n", "old", "-v", "1")
    printed, said = at.ok("chaincode", "install", *flags, "-p", code, "-l", "node")
    assert printed == ""
    assert 'Installed remotely: response:<status:200 payload:"OK" >' in said
    printed, _ = at.ok("chaincode", "list", "--installed")
    title, line = printed.splitlines()
    assert title == "Get installed chaincodes on peer:"
    assert re.fullmatch(r"Name: old, Version: 1, Id: [0-9a-f]{64}", line)
    again = at.refused("chaincode", "install", *flags, "-p", code, "-l", "node")
    assert again.startswith("install failed with status: 500 - ")
    migrated = at.refused("chaincode", "instantiate", "-C", CHANNEL, *flags, "-o", at.orderer)
    assert "could not assemble transaction, err proposal response was not successful" in migrated
    assert "new lifecycle" in migrated
    upgrade = at.refused("chaincode", "upgrade", "-C", CHANNEL, *flags, "-o", at.orderer)
    assert "new lifecycle" in upgrade
    for args in (["--installed", "--instantiated"], [], ["--instantiated"]):
        assert at("chaincode", "list", *args).returncode == 2


def test_the_example_of_the_page(tmp_path: Path) -> None:
    """As it stands there, but for the orderer, which listens elsewhere here."""
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    found = re.search(r"```sh\n(export CORE_PEER_FILESYSTEMPATH=data\n.+?)```", page, re.DOTALL)
    assert found is not None
    with site(tmp_path / "data") as opened:
        ordered = re.compile(r"(approveformyorg|commit|invoke) -C mychannel")
        script = ordered.sub(rf"\1 -C mychannel -o {opened.orderer}", found[1])
        assert script.count(opened.orderer) == 3
        run = f'triopeer() {{ {sys.executable} -m peer "$@"; }}\nset -e\n'
        (tmp_path / "examples").symlink_to(ROOT / "examples")
        done = subprocess.run(
            ["sh", "-c", run + script],
            env={**variables(), "CORE_PEER_ADDRESS": opened.address},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr
