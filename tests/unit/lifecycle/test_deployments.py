"""A ledger has the indexes of what is defined on it and installed here, whichever came first."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fabric_protos.codec import encode
from fabric_protos.protos import ChaincodeData
from peer.channel.network import Network, NetworkDescription, create
from peer.errors import LedgerFull, PackageError, StartError
from peer.ledger.api import CommittedBlock, Ledger
from peer.lifecycle.deployments import Deployments
from tests.unit.lifecycle.archives import files, package
from tests.unit.lifecycle.test_packages import spec
from tests.unit.scc.channels import CHANNEL, Site, open_site
from tests.unit.scc.test_lifecycle import collection, collections, define

DIRECTORY = "META-INF/statedb/couchdb"
OWNER = b'{"index":{"fields":["owner"]},"type":"json"}'
SIZE = b'{"index":{"fields":["size"]},"type":"json"}'


def packed(label: str, **indexes: bytes) -> bytes:
    """Return a package; names tell the collection, if any, and the index."""
    places = {
        f"{DIRECTORY}/collections/{name.partition('_')[0]}/indexes/{name}.json"
        if "_" in name
        else f"{DIRECTORY}/indexes/{name}.json": content
        for name, content in indexes.items()
    }
    return package(files({"src/chaincode.py": b"", **places}), label=label)


class Desk:
    """Defines and installs, and sees what the ledger is told.

    Attributes:
        told: chaincode and indexes of each call.
        refusal: raised by the ledger instead.
        retired: packages that no definition leads to any more.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.told: list[tuple[str, Mapping[str, Sequence[bytes]]]] = []
        self.refusal: Exception | None = None
        self.retired: list[str] = []
        self.deployments = self.restarted()

    def restarted(self) -> Deployments:
        return Deployments(
            channels=lambda: [CHANNEL],
            ledger=lambda channel_id: cast("Ledger", self),
            definitions=self.site.definitions,
            packages=self.site.packages,
            retire=self.retired.append,
        )

    async def set_indexes(self, chaincode: str, definitions: Mapping[str, Sequence[bytes]]) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.told.append((chaincode, definitions))

    async def install(self, data: bytes) -> str:
        ccid = (await self.site.packages.install_package(data)).ccid
        await self.deployments.on_install(ccid)
        return ccid

    async def define(self, sequence: int = 1, **more: Any) -> None:
        await define(self.site, sequence, **more)
        await self.commits("_lifecycle")

    async def commits(self, *namespaces: str) -> None:
        block = SimpleNamespace(namespaces=frozenset(namespaces))
        await self.deployments.on_commit(CHANNEL, cast("CommittedBlock", block))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    description = NetworkDescription(organisations=("Org1", "Org2"))
    return create(tmp_path_factory.mktemp("network") / "net", description)


@pytest.fixture
async def desk(network: Network, tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_site(network, tmp_path) as site:
        yield Desk(site)


async def test_a_definition_after_its_package(desk: Desk) -> None:
    ccid = await desk.install(packed("one", owner=OWNER, size=SIZE))
    assert desk.told == []
    await desk.define(package_id=ccid)
    assert desk.told == [("cc", {"": [OWNER, SIZE]})]
    await desk.commits("_lifecycle")
    await desk.commits("cc")
    assert len(desk.told) == 1


async def test_a_package_after_its_definition(desk: Desk) -> None:
    data = packed("one", owner=OWNER)
    ccid = await desk.install(data)
    await desk.site.packages.uninstall(ccid)
    await desk.define(package_id=ccid)
    assert desk.told == []
    await desk.install(packed("other", size=SIZE))
    assert desk.told == []
    await desk.install(data)
    assert desk.told == [("cc", {"": [OWNER]})]


async def test_another_package_brings_its_own_and_none_removes_them(desk: Desk) -> None:
    first = await desk.install(packed("one", owner=OWNER))
    second = await desk.install(packed("two"))
    await desk.define(package_id=first)
    await desk.define(2, package_id=second)
    await desk.define(3, package_id=first)
    await desk.define(4)  # the organisation has no package for it
    assert desk.told == [("cc", {"": each}) for each in ([OWNER], [], [OWNER], [])]


async def test_collections_that_are_defined(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    data = packed("one", owner=OWNER, secrets_size=SIZE, others_size=SIZE)
    ccid = await desk.install(data)
    await desk.define(package_id=ccid, collections=collections(collection("secrets")))
    assert desk.told == [("cc", {"": [OWNER], "secrets": [SIZE]})]
    assert [record.getMessage() for record in caplog.records] == [
        "chaincode cc has an index for a collection others it has not"
    ]
    wanted = collections(collection("secrets"), collection("others"))
    await desk.define(2, package_id=ccid, collections=wanted)
    assert desk.told[1:] == [("cc", {"": [OWNER], "secrets": [SIZE], "others": [SIZE]})]


async def test_a_legacy_definition(desk: Desk) -> None:
    code = files({"src/chaincode.go": b"", f"{DIRECTORY}/indexes/owner.json": OWNER})
    await desk.install(encode(replace(spec(name="cc"), code_package=code)))
    data = ChaincodeData(name="cc", version="1.0")
    await desk.site.write("lscc", {"cc": encode(data), "cc~collection": b""})
    await desk.commits("lscc")
    assert desk.told == [("cc", {"": [OWNER]})]


async def test_at_the_start_everything_is_told_once_more(desk: Desk) -> None:
    ccid = await desk.install(packed("one", owner=OWNER))
    await desk.define(package_id=ccid)
    deployments = desk.restarted()
    await deployments.refresh(CHANNEL)
    await deployments.refresh(CHANNEL)
    assert desk.told == [("cc", {"": [OWNER]})] * 2


async def test_at_the_start_what_is_here_and_defined_is_launched(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    here = [await desk.install(packed(label)) for label in ("one", "two", "undefined")]
    gone = await desk.install(packed("gone"))
    for name, ccid in (("cc1", here[0]), ("cc2", here[1]), ("alias", here[1]), ("cc3", gone)):
        await desk.define(name=name, package_id=ccid)
    await desk.site.packages.uninstall(gone)
    launched: list[str] = []

    async def launch(ccid: str) -> None:
        launched.append(ccid)
        if ccid == here[0]:
            raise StartError(ccid, "no memory")

    deployments = desk.restarted()
    await deployments.refresh(CHANNEL)
    await deployments.launch_all(launch)
    assert launched == here[:2]
    assert f"could not launch chaincode {here[0]}: no memory" in caplog.text


async def test_at_the_start_what_is_defined_no_more_is_not_launched(desk: Desk) -> None:
    first, second = sorted([await desk.install(packed(label)) for label in ("one", "two")])
    await desk.define(name="cc1", package_id=first)
    await desk.define(name="cc2", package_id=second)
    launched: list[str] = []

    async def launch(ccid: str) -> None:
        launched.append(ccid)
        await desk.define(2, name="cc2", package_id=first)

    await desk.deployments.launch_all(launch)
    assert (launched, desk.retired) == ([first], [second])


async def test_trouble_is_logged_and_tried_again(
    desk: Desk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ccid = await desk.install(packed("one", owner=OWNER))
    desk.refusal = LedgerFull("ledger.sqlite", "the disk is full")
    await desk.define(package_id=ccid)
    assert "indexes of chaincode cc on mychannel: ledger ledger.sqlite" in caplog.text
    desk.refusal = None

    async def unreadable(ccid: str) -> Mapping[str, bytes]:
        raise PackageError("somebody took it away")

    with monkeypatch.context() as patch:
        patch.setattr(desk.site.packages, "indexes", unreadable)
        await desk.commits("_lifecycle")
    assert "somebody took it away" in caplog.text
    assert desk.told == []
    await desk.commits("_lifecycle")
    assert desk.told == [("cc", {"": [OWNER]})]


async def test_what_an_external_builder_released_is_checked(
    desk: Desk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ccid = await desk.install(packed("one", owner=OWNER))

    async def released(ccid: str) -> Mapping[str, bytes]:
        return {f"{DIRECTORY}/indexes/x.json": json.dumps({"index": {}}).encode()}

    with monkeypatch.context() as patch:
        patch.setattr(desk.site.packages, "indexes", released)
        await desk.define(package_id=ccid)
    assert "is not a valid index definition" in caplog.text
    assert desk.told == []


async def test_a_package_is_retired_with_the_last_definition_that_leads_to_it(desk: Desk) -> None:
    first, second = [await desk.install(packed(label)) for label in ("one", "two")]
    await desk.define(package_id=first)
    await desk.define(name="other", package_id=first)
    await desk.define(2, package_id=second)
    assert desk.retired == []
    await desk.define(2, name="other", package_id=second)
    assert desk.retired == [first]
    assert [desk.deployments.is_defined(each) for each in (first, second)] == [False, True]
    await desk.commits("_lifecycle")
    await desk.define(3)  # the organisation has no package for it
    assert desk.retired == [first]
    await desk.define(3, name="other")
    assert desk.retired == [first, second]
