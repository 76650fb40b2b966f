"""Database names, as Fabric's peer makes them."""

from __future__ import annotations

from hashlib import sha256

import pytest

from peer.couchdb.naming import is_of_channel, metadata_database, namespace_database


@pytest.mark.parametrize(
    ("channel_id", "namespace", "name"),
    [
        ("ch", "cc", "ch_cc"),
        ("my.ch-1", "cc", "my$ch-1_cc"),
        ("ch", "myCC", "ch_my$c$c"),
        ("ch", "_lifecycle", "ch__lifecycle"),
        ("ch", "cc$$pSecrets", "ch_cc$$p$secrets"),
        ("ch", "cc$$p_implicit_org_Org1MSP", "ch_cc$$p_implicit_org_$org1$m$s$p"),
        ("ch", "c" * 235, f"ch_{'c' * 235}"),
    ],
)
def test_names(channel_id: str, namespace: str, name: str) -> None:
    assert namespace_database(channel_id, namespace) == name


@pytest.mark.parametrize(
    ("channel_id", "namespace", "beginning"),
    [
        ("ch", "c" * 236, f"ch_{'c' * 50}"),
        ("h" * 60, "c" * 178, f"{'h' * 50}_{'c' * 50}"),
        ("h.h" * 60, "C" * 70, f"{('h$h' * 60)[:50]}_{'$c' * 25}"),
        ("ch", f"{'c' * 100}$$p{'d' * 200}", f"ch_{'c' * 50}$$p{'d' * 49}"),
        ("ch", f"cc$$p{'d' * 240}", f"ch_cc$$p{'d' * 49}"),
    ],
)
def test_names_that_are_too_long(channel_id: str, namespace: str, beginning: str) -> None:
    digest = sha256(f"{channel_id}_{namespace}".encode()).hexdigest()
    assert namespace_database(channel_id, namespace) == f"{beginning}({digest})"


def test_the_database_of_the_savepoint() -> None:
    assert metadata_database("my.ch") == "my$ch_"
    digest = sha256(b"h" * 240).hexdigest()
    assert metadata_database("h" * 240) == f"{'h' * 50}({digest})_"


def test_what_is_of_a_channel() -> None:
    ours = ["ch_", "ch_cc", namespace_database("ch", "c" * 236)]
    others = ["ch2_cc", "ch", "_users", "c", "ch-2_", "h" * 50 + "_cc(ab)"]
    assert [name for name in [*ours, *others] if is_of_channel(name, "ch")] == ours
    long = "h" * 240
    assert is_of_channel(metadata_database(long), long)
