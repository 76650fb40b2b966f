"""Names of containers and images."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.api import NameRejected
from runtimes.naming import container_name, image_name

PACKAGE_ID = "Basic_1.0:" + "ab" * 32
THIRD_DIGEST = "fb8a47f788f2d1448d4d8bbb7cf362bee360f6ed48fdf431b345bf1507918fa4"
parts = st.text(max_size=20)
ids = st.text(min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("network_id", "peer_id", "ccid", "name"),
    [
        ("dev", "jdoe", "mycc:1.0", "dev-jdoe-mycc-1.0"),
        ("dev", "jdoe", "mycc-1.0", "dev-jdoe-mycc-1.0"),
        ("", "jdoe", "mycc:1.0", "jdoe-mycc-1.0"),
        ("dev", "", "mycc:1.0", "dev-mycc-1.0"),
        ("", "", "mycc:1.0", "mycc-1.0"),
        (
            "dev",
            "peer0.org1.example.com",
            "basic_1.0:abcd",
            "dev-peer0.org1.example.com-basic_1.0-abcd",
        ),
        ("Dev", "J/doe", "Ä+b:1", "Dev-J-doe---b-1"),
    ],
)
def test_container_names(network_id: str, peer_id: str, ccid: str, name: str) -> None:
    assert container_name(ccid, network_id=network_id, peer_id=peer_id) == name


@pytest.mark.parametrize(
    ("network_id", "peer_id", "ccid", "name"),
    [
        (
            "dev",
            "jdoe",
            "mycc:1.0",
            "dev-jdoe-mycc-1.0-14f7d8f020588f356678416edc488c9de31e9d4aa29bca6818f6ef98936b9b24",
        ),
        (
            "dev",
            "",
            "mycc:1.0",
            "dev-mycc-1.0-5e6e4af2bdefda17d7592d1df6fbe5e040a20b269080890eeb6c0f97d954c67d",
        ),
        (
            "dev",
            "peer0.org1.example.com",
            PACKAGE_ID,
            f"dev-peer0.org1.example.com-basic_1.0-{'ab' * 32}-{THIRD_DIGEST}",
        ),
    ],
)
def test_image_names(network_id: str, peer_id: str, ccid: str, name: str) -> None:
    assert image_name(ccid, network_id=network_id, peer_id=peer_id) == name


@pytest.mark.parametrize(
    ("peer_id", "ccid"), [("jdoe_", "mycc:1.0"), ("", "a__b:1"), ("", "-a:1"), ("", ".a:1")]
)
def test_names_that_are_no_repository_are_refused(peer_id: str, ccid: str) -> None:
    with pytest.raises(NameRejected) as caught:
        image_name(ccid, peer_id=peer_id)
    assert re.fullmatch(
        r"Error constructing Docker VM Name\. '[^']+-[0-9a-f]{64}' "
        r"breaks Docker's repository naming rules",
        str(caught.value),
    )


@given(parts, parts, ids)
def test_a_container_name_has_only_allowed_characters(network: str, peer: str, ccid: str) -> None:
    name = container_name(ccid, network_id=network, peer_id=peer)
    assert re.fullmatch(r"[a-zA-Z0-9_.-]+", name)
    assert container_name(name) == name
    assert len(name) == len("-".join(filter(None, (network, peer, ccid))))


@given(parts, parts, ids)
def test_an_image_name_is_a_repository_or_refused(network: str, peer: str, ccid: str) -> None:
    try:
        name = image_name(ccid, network_id=network, peer_id=peer)
    except NameRejected:
        return
    assert re.fullmatch(r"[a-z0-9]+([._-][a-z0-9]+)*", name)
    base = "-".join(filter(None, (network, peer, ccid))).replace(":", "-")
    assert name.endswith("-" + hashlib.sha256(base.encode()).hexdigest())


@given(st.from_regex(r"[a-zA-Z0-9]{1,9}:[a-zA-Z0-9.]{1,9}", fullmatch=True), st.data())
def test_ids_that_differ_give_images_that_differ(ccid: str, data: st.DataObject) -> None:
    other = data.draw(st.sampled_from([ccid.swapcase(), ccid + "1", ccid.replace(":", ":0")]))
    try:
        same = image_name(ccid) == image_name(other)
    except NameRejected:
        return
    assert same == (ccid == other)
