"""What a stub knows without asking: arguments, proposal, keys."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

import shim
from fabric_protos.stream import (
    ChaincodeInput,
    ChaincodeMessage,
    ChaincodeProposalPayload,
    ChannelHeader,
    Header,
    Proposal,
    SignatureHeader,
    SignedProposal,
    Timestamp,
)
from fabric_protos.stream import ChaincodeMessageType as T
from shim.context import RENAMED
from shim.keys import create_composite_key, split_composite_key
from shim.requests import Limits
from shim.transaction import Transaction

STAMP = Timestamp(seconds=1_700_000_000, nanos=123_456_789)


def signed_proposal(
    kind: int = 3, epoch: int = 0, timestamp: Timestamp | None = STAMP, **parts: bytes
) -> SignedProposal:
    header = Header(
        channel_header=ChannelHeader(type=kind, timestamp=timestamp).encode(),
        signature_header=SignatureHeader(creator=b"creator", nonce=bytes(range(24))).encode(),
    )
    if epoch:
        header.channel_header = ChannelHeader(type=kind, timestamp=timestamp, epoch=epoch).encode()
    payload = ChaincodeProposalPayload(transient_map={"secret": b"s"}).encode()
    proposal = Proposal(header=parts.get("header", header.encode()), payload=payload)
    return SignedProposal(proposal_bytes=parts.get("proposal", proposal.encode()), signature=b"sig")


def stub_of(*args: bytes, proposal: SignedProposal | None = None, **fields: Any) -> Any:
    message = ChaincodeMessage(
        type=T.TRANSACTION,
        payload=ChaincodeInput(args=list(args), **fields).encode(),
        txid="tx1",
        channel_id="ch1",
        proposal=proposal,
    )
    return shim.ChaincodeStub(Transaction(message, Limits(), lambda data: None))  # type: ignore


def test_arguments() -> None:
    stub = stub_of(b"fn", b"a", b"\xff", decorations={"d": b"1"}, is_init=True)
    assert stub.args == [b"fn", b"a", b"\xff"]
    assert stub.string_args == ["fn", "a", "\udcff"]
    assert stub.args_slice == b"fna\xff"
    assert stub.get_function_and_parameters() == ("fn", ["a", "\udcff"])
    assert (stub.function, stub.parameters) == ("fn", ["a", "\udcff"])
    assert (stub.tx_id, stub.channel_id, stub.is_init) == ("tx1", "ch1", True)
    assert stub.decorations == {"d": b"1"}


def test_no_arguments() -> None:
    assert stub_of().get_function_and_parameters() == ("", [])


def test_no_proposal() -> None:
    stub = stub_of(b"f")
    assert (stub.creator, stub.transient, stub.binding) == (b"", {}, b"")
    assert stub.signed_proposal is None
    with pytest.raises(LookupError, match="transaction tx1 carries no time stamp"):
        _ = stub.tx_timestamp


def test_proposal() -> None:
    stub = stub_of(b"f", proposal=signed_proposal())
    assert stub.creator == b"creator"
    assert stub.transient == {"secret": b"s"}
    assert stub.signed_proposal.signature == b"sig"
    assert stub.tx_timestamp_ns == 1_700_000_000_123_456_789
    assert stub.tx_timestamp == datetime(2023, 11, 14, 22, 13, 20, 123_456, tzinfo=UTC)


def test_proposal_without_time() -> None:
    with pytest.raises(LookupError):
        _ = stub_of(b"f", proposal=signed_proposal(timestamp=None)).tx_timestamp_ns


@pytest.mark.parametrize(
    ("epoch", "binding"),
    [
        (0, "abb64b5396cc345b4a74c0fac942fc88c27204131218533723b124dff1bfc67b"),
        (7, "6b447d6da5bfb433f074edcd48416fddcfc9c0593da6cca9f97dcf9f7865a727"),
    ],
)
def test_binding(epoch: int, binding: str) -> None:
    assert stub_of(proposal=signed_proposal(epoch=epoch)).binding.hex() == binding


@pytest.mark.parametrize(
    ("proposal", "message"),
    [
        (signed_proposal(header=b""), "failed to extract Proposal fields: proposal header is nil"),
        (signed_proposal(kind=2), "invalid channel header type. Expected"),
        (signed_proposal(proposal=b"\x0a"), "Proposal"),
        (signed_proposal(header=b"\xff"), "Header"),
    ],
)
def test_a_broken_proposal_is_refused(proposal: SignedProposal, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stub_of(proposal=proposal)


def test_a_config_proposal_is_accepted() -> None:
    assert stub_of(proposal=signed_proposal(kind=1)).creator == b"creator"


def test_msp_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORE_PEER_LOCALMSPID", "Org1MSP")
    assert stub_of().msp_id == "Org1MSP"
    monkeypatch.delenv("CORE_PEER_LOCALMSPID")
    with pytest.raises(LookupError, match="'CORE_PEER_LOCALMSPID' is not set"):
        _ = stub_of().msp_id


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_fabrics_names_of_properties_are_explained(old: str, new: str) -> None:
    stub = stub_of()
    assert isinstance(getattr(shim.ChaincodeStub, new), property)
    with pytest.raises(AttributeError, match=f"it is the property '{new}' here"):
        getattr(stub, old)


def test_unknown_attributes_are_unknown() -> None:
    with pytest.raises(AttributeError, match="ChaincodeStub has no attribute 'put'"):
        _ = stub_of().put


def test_both_stubs_have_the_same_methods() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert public(shim.ChaincodeStub) == public(shim.SyncChaincodeStub)


# Composite keys


def test_composite_key() -> None:
    key = stub_of().create_composite_key("color~name", ["blue", "m1"])
    assert key.encode() == b"\0color~name\0blue\0m1\0"
    assert stub_of().split_composite_key(key) == ("color~name", ["blue", "m1"])


@pytest.mark.parametrize("parts", [("t", []), ("", [""]), ("t", ["", "ü", "a b"])])
def test_composite_keys_come_back(parts: tuple[str, list[str]]) -> None:
    assert split_composite_key(create_composite_key(*parts)) == parts


@pytest.mark.parametrize(
    ("object_type", "attributes", "message"),
    [
        ("a\0b", [], r"unicode U\+0000 starting at position \[1\]"),
        ("t", ["ü\0"], r"unicode U\+0000 starting at position \[2\]"),
        ("t", ["ab\U0010ffff\0"], r"unicode U\+10FFFF starting at position \[2\]"),
        ("t", ["a\ud800"], r"surrogate at position \[1\]"),
    ],
)
def test_bad_parts(object_type: str, attributes: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_composite_key(object_type, attributes)


@pytest.mark.parametrize("key", ["", "\0", "plain", "\0open", "x\0a\0"])
def test_split_of_what_is_no_composite_key(key: str) -> None:
    with pytest.raises(ValueError, match="not a composite key"):
        split_composite_key(key)


# Responses


def test_responses() -> None:
    assert shim.success("v") == shim.Response(shim.OK, "", b"v")
    assert shim.error("no") == shim.Response(shim.ERROR, "no")
    assert shim.error("no", shim.ERROR_THRESHOLD, "p").payload == b"p"
    assert shim.success() != "success"
    assert repr(shim.success(b"secret")) == "Response(200, '', <6 bytes>)"
    assert str(shim.ChaincodeError("no", 404)) == "no"
