"""Collections as people write them."""

from __future__ import annotations

import json

import pytest

from fabric_protos.protos import ApplicationPolicy, CollectionConfig, StaticCollectionConfig
from peer.client.collections import application_policy, read_collections
from peer.errors import InvalidDefinition
from peer.msp.dsl import parse_policy

POLICY = "OR('Org1MSP.member', 'Org2MSP.member')"


def static(config: CollectionConfig) -> StaticCollectionConfig:
    assert config.static_collection_config is not None
    return config.static_collection_config


def test_all_of_a_collection() -> None:
    entry = {
        "name": "secret",
        "policy": POLICY,
        "requiredPeerCount": 1,
        "maxPeerCount": 3,
        "blockToLive": 100,
        "memberOnlyRead": True,
        "memberOnlyWrite": True,
        "endorsementPolicy": {"signaturePolicy": "OR('Org1MSP.member')"},
    }
    [config] = read_collections(json.dumps([entry])).config
    found = static(config)
    assert (found.name, found.required_peer_count, found.maximum_peer_count) == ("secret", 1, 3)
    assert (found.block_to_live, found.member_only_read, found.member_only_write) == (
        100,
        True,
        True,
    )
    assert found.member_orgs_policy is not None
    assert found.member_orgs_policy.signature_policy == parse_policy(POLICY)
    assert found.endorsement_policy == ApplicationPolicy(
        signature_policy=parse_policy("OR('Org1MSP.member')")
    )


def test_what_holds_by_itself() -> None:
    first = {"name": "a", "policy": POLICY}
    second = {**first, "name": "b", "endorsementPolicy": {"channelConfigPolicy": "Endorsement"}}
    a, b = (static(each) for each in read_collections(json.dumps([first, second])).config)
    assert (a.required_peer_count, a.maximum_peer_count, a.block_to_live) == (0, 1, 0)
    assert not a.member_only_read
    assert a.endorsement_policy is None
    assert b.endorsement_policy == ApplicationPolicy(channel_config_policy_reference="Endorsement")
    assert read_collections("[]").config == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "invalid collection configuration: "),
        ("{}", "expected a list"),
        ("[7]", "invalid collection configuration: "),
        ('[{"policy": "OR()"}]', "'name' is missing"),
        ('[{"name": "a"}]', "'policy' is missing"),
        ('[{"name": "a", "policy": "OR("}]', "invalid collection configuration: "),
        ('[{"name": 7, "policy": "x"}]', "name must be str"),
        ('[{"name": "a", "policy": "OR(\'A.peer\')", "blockToLive": "7"}]', "must be int"),
        ('[{"name": "a", "policy": "OR(\'A.peer\')", "maxPeerCount": true}]', "must be int"),
        ('[{"name": "a", "policy": "OR(\'A.peer\')", "blockTolive": 1}]', "key blockTolive"),
    ],
)
def test_what_cannot_be_meant(text: str, said: str) -> None:
    with pytest.raises(InvalidDefinition) as caught:
        read_collections(text)
    assert said in str(caught.value)


def test_policies_of_a_definition() -> None:
    assert application_policy("", "") is None
    assert application_policy("", "Endorsement") == ApplicationPolicy(
        channel_config_policy_reference="Endorsement"
    )
    with pytest.raises(InvalidDefinition, match='cannot specify both "--signature-policy"'):
        application_policy(POLICY, "Endorsement")
