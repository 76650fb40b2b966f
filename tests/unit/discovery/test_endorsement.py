"""Which peers together satisfy the policies of what a transaction touches."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from fabric_protos.codec import encode
from fabric_protos.common import (
    SignaturePolicy,
    SignaturePolicyEnvelope,
    SignaturePolicyNOutOf,
)
from fabric_protos.protos import (
    ApplicationPolicy,
    ChaincodeCall,
    ChaincodeData,
    ChaincodeInterest,
    CollectionConfig,
    CollectionConfigPackage,
    CollectionPolicyConfig,
    StaticCollectionConfig,
)
from peer.discovery import endorsement
from peer.discovery.endorsement import Endorsements
from peer.discovery.peers import KnownPeers, PeerNode
from peer.errors import NoEndorsers
from peer.ledger.rwset import RwSetBuilder
from peer.lifecycle.state import LSCC
from peer.msp import standard
from peer.msp.dsl import parse_policy
from tests.unit.validation.conftest import bare as bare
from tests.unit.validation.conftest import legacy as legacy
from tests.unit.validation.conftest import legacy_scene as legacy_scene
from tests.unit.validation.conftest import scene as scene
from tests.unit.validation.forging import CC, CHANNEL, World, definition, endorsed_by

OWN = "peer0.org1"
NODES = {
    "peer1.org1": PeerNode("Org1MSP", "peer1.org1"),
    "peer0.org2": PeerNode("Org2MSP", "peer0.org2"),
    "peer0.org9": PeerNode("Org9MSP", "peer0.org9"),
}
BOTH = "AND('Org1MSP.peer', 'Org2MSP.peer')"
EITHER = "OR('Org1MSP.member', 'Org2MSP.member')"
NOBODY = "no peer combination can satisfy the endorsement policy"


def known(world: World, *others: str, lacks: Sequence[str] = ()) -> Endorsements:
    """Return what is found with the own peer and these; the own one lacks some chaincodes."""
    own = PeerNode("Org1MSP", OWN, world.scene.peer(0).creator)
    find = {CHANNEL: world.channel}.get
    peers = KnownPeers(
        own,
        [NODES[each] for each in others],
        channel=find,
        can_run=lambda channel_id, name: name not in lacks,
    )
    return Endorsements(peers, find)


async def layouts(found: Endorsements, *calls: ChaincodeCall) -> list[str]:
    """Return the layouts with the peers of their groups instead of names."""
    descriptor = await found.descriptor(CHANNEL, ChaincodeInterest(chaincodes=list(calls)))
    groups = {
        name: "/".join(node.address for node in nodes) for name, nodes in descriptor.groups.items()
    }
    assert {name for layout in descriptor.layouts for name in layout} <= groups.keys()
    return sorted(
        " + ".join(sorted(f"{count} of {groups[name]}" for name, count in layout.items()))
        for layout in descriptor.layouts
    )


async def refused(found: Endorsements, *calls: ChaincodeCall, channel_id: str = CHANNEL) -> str:
    with pytest.raises(NoEndorsers) as caught:
        await found.descriptor(channel_id, ChaincodeInterest(chaincodes=list(calls)))
    return str(caught.value)


PLAIN = ChaincodeCall(name=CC)


@pytest.mark.parametrize(
    ("policy", "others", "expected"),
    [
        ("OR('Org1MSP.peer')", [], ["1 of peer0.org1"]),
        ("OR('Org1MSP.member', 'Org2MSP.peer')", [], ["1 of peer0.org1"]),
        (
            "OR('Org1MSP.peer', 'Org2MSP.peer')",
            ["peer0.org2"],
            ["1 of peer0.org1", "1 of peer0.org2"],
        ),
        (BOTH, ["peer0.org2"], ["1 of peer0.org1 + 1 of peer0.org2"]),
        (
            "AND('Org1MSP.peer', 'Org1MSP.peer')",
            ["peer1.org1"],
            ["2 of peer0.org1/peer1.org1"],
        ),
        (
            "OutOf(2, 'Org1MSP.peer', 'Org2MSP.peer', 'Org3MSP.peer')",
            ["peer0.org2"],
            ["1 of peer0.org1 + 1 of peer0.org2"],
        ),
    ],
)
async def test_policies_of_chaincodes(
    bare: World, policy: str, others: list[str], expected: list[str]
) -> None:
    await bare.define(CC, definition(endorsed_by(policy)))
    assert await layouts(known(bare, *others), PLAIN) == expected


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (BOTH, NOBODY),
        ("AND('Org1MSP.peer', 'Org1MSP.peer')", NOBODY),
        ("OR('Org1MSP.admin', 'Org1MSP.client')", NOBODY),
        ("OutOf(2, 'Org1MSP.peer')", "endorsement policy cannot be satisfied"),
    ],
)
async def test_policies_that_the_own_peer_does_not_satisfy(
    bare: World, policy: str, text: str
) -> None:
    await bare.define(CC, definition(endorsed_by(policy)))
    assert await refused(known(bare), PLAIN) == text


async def test_the_policies_of_the_channel(bare: World) -> None:
    """Most organisations decide on definitions."""
    call = ChaincodeCall(name="_lifecycle")
    found = known(bare, "peer0.org2")
    assert await layouts(found, call) == ["1 of peer0.org1 + 1 of peer0.org2"]
    assert await refused(known(bare), call) == NOBODY


async def test_peers_whose_organisation_is_not_a_member(bare: World) -> None:
    await bare.define(CC, definition(endorsed_by("OR('Org9MSP.peer')")))
    assert await refused(known(bare, "peer0.org9"), PLAIN) == NOBODY


async def test_another_peer_is_no_more_than_a_peer(bare: World) -> None:
    """Nothing but its organisation is known of it."""
    await bare.define(CC, definition(endorsed_by("OR('Org2MSP.admin', 'Org2MSP.client')")))
    assert await refused(known(bare, "peer0.org2"), PLAIN) == NOBODY


async def test_what_is_not_there(bare: World) -> None:
    text = "No metadata was found for chaincode cc in channel"
    assert await refused(known(bare), PLAIN) == f"{text} mychannel"
    assert await refused(known(bare), PLAIN, channel_id="other") == f"{text} other"


async def test_chaincodes_that_are_not_installed(bare: World) -> None:
    await bare.define(CC, definition(endorsed_by(EITHER)))
    text = "required chaincodes are not installed on sufficient peers"
    assert await refused(known(bare, lacks=[CC]), PLAIN) == text
    found = known(bare, "peer0.org2", lacks=[CC])
    assert await layouts(found, PLAIN) == ["1 of peer0.org2"]


async def test_several_chaincodes(bare: World) -> None:
    """A member of Org1 and a peer of Org1 is one peer."""
    await bare.define(CC, definition(endorsed_by(EITHER)))
    await bare.define("other", definition(endorsed_by("OR('Org1MSP.peer')")))
    both = (PLAIN, ChaincodeCall(name="other"))
    assert await layouts(known(bare), *both) == ["1 of peer0.org1"]
    assert await layouts(known(bare), *reversed(both)) == ["1 of peer0.org1"]
    await bare.define("third", definition(endorsed_by("OR('Org2MSP.peer')"), sequence=1))
    found = known(bare, "peer0.org2")
    assert await layouts(found, *both, ChaincodeCall(name="third")) == [
        "1 of peer0.org1 + 1 of peer0.org2"
    ]
    text = "required chaincodes are not installed on sufficient peers"
    assert await refused(known(bare, lacks=["other"]), *both) == text


async def test_policies_that_have_nothing_in_common(bare: World) -> None:
    """Each way of one with each way of the other, but for those that satisfy both."""
    await bare.define(CC, definition(endorsed_by("OR('Org1MSP.peer', 'Org2MSP.peer')")))
    await bare.define("other", definition(endorsed_by("AND('Org1MSP.peer', 'Org1MSP.peer')")))
    found = known(bare, "peer1.org1", "peer0.org2")
    assert await layouts(found, PLAIN, ChaincodeCall(name="other")) == [
        "2 of peer0.org1/peer1.org1"
    ]


def collection(
    name: str, members: str, endorsed: str = "", **changes: int
) -> StaticCollectionConfig:
    return StaticCollectionConfig(
        name=name,
        member_orgs_policy=CollectionPolicyConfig(signature_policy=parse_policy(members)),
        endorsement_policy=ApplicationPolicy(signature_policy=parse_policy(endorsed))
        if endorsed
        else None,
        **changes,
    )


async def test_collections(bare: World) -> None:
    secrets = collection("secrets", "OR('Org2MSP.member')", "OR('Org2MSP.peer')")
    plain = collection("plain", "OR('Org1MSP.member', 'Org2MSP.member')")
    made = definition(endorsed_by("OR('Org1MSP.peer')"), collections=[secrets, plain])
    await bare.define(CC, made)
    found = known(bare, "peer0.org2")

    def call(name: str, *, reads: bool = False) -> ChaincodeCall:
        return ChaincodeCall(name=CC, collection_names=[name], no_private_reads=not reads)

    assert await layouts(found, call("secrets")) == ["1 of peer0.org2"]
    assert await layouts(found, call("plain", reads=True)) == ["1 of peer0.org1"]
    assert await layouts(found, PLAIN, call("secrets")) == ["1 of peer0.org1 + 1 of peer0.org2"]
    # Who is no member cannot read: Org1 has to endorse, and cannot.
    assert await refused(found, PLAIN, call("secrets", reads=True)) == NOBODY
    assert await layouts(found, call("_implicit_org_Org2MSP", reads=True)) == ["1 of peer0.org2"]
    text = "collection unknown doesn't exist in collection config for chaincode cc"
    assert await refused(found, call("unknown", reads=True)) == text
    assert "collection unknown is not defined" in await refused(found, call("unknown"))


async def test_keys_with_policies_of_their_own(bare: World) -> None:
    await bare.define(CC, definition(endorsed_by("OR('Org1MSP.peer')")))
    found = known(bare, "peer0.org2")
    policy = parse_policy("OR('Org2MSP.peer')")
    instead = ChaincodeCall(name=CC, key_policies=[policy], disregard_namespace_policy=True)
    assert await layouts(found, instead) == ["1 of peer0.org2"]
    too = ChaincodeCall(name=CC, key_policies=[policy])
    assert await layouts(found, too) == ["1 of peer0.org1 + 1 of peer0.org2"]
    nothing = ChaincodeCall(name=CC, disregard_namespace_policy=True)
    text = "requested to disregard chaincode cc's policy"
    assert (await refused(found, nothing)).startswith(text)
    never = ChaincodeCall(name=CC, key_policies=[standard.reject_all()])
    assert await refused(found, never) == "endorsement policy cannot be satisfied"


async def test_policies_of_whoever_asks_hold_nobody_up(
    bare: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bare.define(CC, definition(endorsed_by("OR('Org1MSP.peer')")))
    work, threads = endorsement._satisfied, []

    def noted(*arguments: Any) -> endorsement.Descriptor:
        threads.append(threading.current_thread())
        return work(*arguments)

    monkeypatch.setattr(endorsement, "_satisfied", noted)
    rules = [SignaturePolicy(signed_by=0)] * 9000
    half = SignaturePolicy(n_out_of=SignaturePolicyNOutOf(n=4500, rules=rules))
    policy = parse_policy("OR('Org1MSP.peer')")
    huge = SignaturePolicyEnvelope(rule=half, identities=policy.identities)
    assert await refused(known(bare), ChaincodeCall(name=CC, key_policies=[huge])) == NOBODY
    assert await layouts(known(bare), PLAIN) == ["1 of peer0.org1"]
    here = threading.current_thread()
    assert [thread is here for thread in threads] == [False, True]


async def test_legacy_definitions(legacy: World) -> None:
    """Their collections lie elsewhere, and have no policies of their own."""
    await legacy.put(deployed(), name=LSCC)
    found = known(legacy, "peer0.org2")
    assert await layouts(found, PLAIN) == ["1 of peer0.org1"]
    written = ChaincodeCall(name=CC, collection_names=["secrets"], no_private_reads=True)
    assert await layouts(found, written) == ["1 of peer0.org1"]
    read = ChaincodeCall(name=CC, collection_names=["secrets"])
    assert await refused(found, read) == NOBODY
    text = "collection unknown doesn't exist in collection config for chaincode cc"
    assert await refused(found, ChaincodeCall(name=CC, collection_names=["unknown"])) == text


def deployed() -> RwSetBuilder:
    """Return the writes of lscc for a chaincode of Org1 with a collection of Org2."""
    data = ChaincodeData(
        name=CC, version="1", escc="escc", vscc="vscc", policy=parse_policy("OR('Org1MSP.peer')")
    )
    config = CollectionConfig(
        static_collection_config=collection("secrets", "OR('Org2MSP.member')")
    )
    sets = RwSetBuilder()
    sets.add_write(LSCC, CC, encode(data))
    sets.add_write(LSCC, f"{CC}~collection", encode(CollectionConfigPackage(config=[config])))
    return sets
