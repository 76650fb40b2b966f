"""What a channel has agreed on."""

from __future__ import annotations

import pytest

from peer.chaincode.support import EndorsementInfo
from peer.errors import LedgerError, UnknownChaincode
from peer.lifecycle.definitions import ChaincodeDefinition, DefinitionStore


def definition(name: str = "cc", **more: object) -> ChaincodeDefinition:
    return ChaincodeDefinition(name=name, version="1", ccid=f"{name}:1", **more)


def test_definitions_belong_to_their_channel() -> None:
    store = DefinitionStore()
    store.define("one", definition(init_required=True))
    assert store.get("one", "cc") == definition(init_required=True)
    assert store.endorsement_info("one", "cc") == EndorsementInfo("1", "cc:1", True)
    for channel_id, name in (("two", "cc"), ("one", "other"), ("", "")):
        with pytest.raises(UnknownChaincode) as caught:
            store.endorsement_info(channel_id, name)
        assert (caught.value.channel_id, caught.value.name) == (channel_id, name)


def test_a_later_definition_replaces_the_earlier() -> None:
    store = DefinitionStore()
    store.define("one", definition(collections=frozenset({"old"})))
    store.define("two", definition())
    seen_before = store.collections("one")
    replacement = ChaincodeDefinition(
        name="cc", version="2", ccid="cc:2", collections=frozenset({"new"})
    )
    store.define("one", replacement)
    assert store.get("one", "cc") == replacement
    assert seen_before == {"cc": {"new"}}  # who holds the mapping sees the change
    assert store.ccids() == {"cc:1", "cc:2"}
    store.define("two", replacement)
    assert store.ccids() == {"cc:2"}


def test_only_defined_collections_may_be_used() -> None:
    store = DefinitionStore()
    store.define("one", definition(collections=frozenset({"secrets"})))
    assert store.permissions("one", "cc", "secrets", None) == (True, True)
    for place in (("one", "cc", "other"), ("one", "dd", "secrets"), ("two", "cc", "secrets")):
        with pytest.raises(LedgerError) as caught:
            store.permissions(*place, None)
        assert str(caught.value) == f"collection {'/'.join(place)} could not be found"
