"""Read-write sets that no simulator makes: one that does something to a key more than once."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest

from fabric_protos.codec import encode
from fabric_protos.kvrwset import HashedRwSet, KvMetadataWrite, KvrwSet, KvWrite, KvWriteHash
from fabric_protos.rwset import CollectionHashedReadWriteSet, NsReadWriteSet, TxReadWriteSet
from peer.ledger.api import SimulationResults, ValidationCode
from peer.ledger.rwset import metadata_entries


def forged(namespace: NsReadWriteSet) -> SimulationResults:
    return SimulationResults(public=encode(TxReadWriteSet(ns_rwset=[namespace])))


PUT, DELETE, MARK, UNMARK = b"put", b"", {"n": b"new"}, dict[str, bytes]()


@pytest.mark.parametrize(
    ("steps", "created", "changed"),
    [
        ([PUT, PUT], None, ("old", {})),
        ([PUT, PUT, PUT], ("put", {}), ("put", {})),
        ([PUT, PUT, PUT, PUT, PUT], ("put", {}), ("put", {})),
        ([PUT, DELETE], None, None),
        ([DELETE, DELETE], None, ("old", {})),
        ([PUT, DELETE, DELETE], None, ("old", {})),
        ([PUT, PUT, PUT, DELETE, DELETE], ("put", {}), ("put", {})),
        ([MARK, MARK], None, ("old", MARK)),
        ([UNMARK, UNMARK], None, None),
        ([MARK, UNMARK], None, ("old", MARK)),
        ([PUT, PUT, MARK], None, ("old", MARK)),
        ([PUT, MARK, MARK], ("put", MARK), ("put", MARK)),
    ],
)
async def test_what_a_forged_set_does_to_a_key_more_than_once(
    channel: Any,
    steps: list[bytes | dict[str, bytes]],
    created: tuple[str, dict[str, bytes]] | None,
    changed: tuple[str, dict[str, bytes]] | None,
) -> None:
    """Fabric adds up what is done to a key, so two of one kind are another kind."""
    setter = channel.simulate()
    setter.set_state("cc", "old", b"old")
    setter.set_state_metadata("cc", "old", {"n": b"old"})
    await channel.commit(setter)
    twice = KvrwSet()
    for key in ("new", "old"):
        for step in steps:
            if isinstance(step, bytes):
                twice.writes.append(KvWrite(key=key, is_delete=not step, value=step))
            else:
                entries = metadata_entries(step)
                twice.metadata_writes.append(KvMetadataWrite(key=key, entries=entries))
    witness = channel.simulate()
    witness.get_state("cc", "old")
    namespace = NsReadWriteSet(namespace="cc", rwset=encode(twice))
    assert await channel.commit(forged(namespace), witness) == [
        ValidationCode.VALID,
        ValidationCode.MVCC_READ_CONFLICT,
    ]
    reader = channel.simulate()
    for key, expected in (("new", created), ("old", changed)):
        value, metadata = expected or (None, {})
        assert reader.get_state("cc", key) == (value and value.encode())
        assert reader.get_state_metadata("cc", key) == metadata
    reader.done()


async def test_a_private_key_written_twice_in_a_forged_set_is_not_written(channel: Any) -> None:
    write = KvWriteHash(key_hash=sha256(b"k").digest(), value_hash=sha256(b"v").digest())
    collection = CollectionHashedReadWriteSet(
        collection_name="secrets", hashed_rwset=encode(HashedRwSet(hashed_writes=[write, write]))
    )
    namespace = NsReadWriteSet(namespace="cc", collection_hashed_rwset=[collection])
    assert await channel.commit(forged(namespace)) == [ValidationCode.VALID]
    reader = channel.simulate()
    assert reader.get_private_data_hash("cc", "secrets", "k") is None
    reader.done()
