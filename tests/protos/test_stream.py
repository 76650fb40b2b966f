"""The slotted classes of the chaincode stream, and real bytes of it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric_protos import codec, protos, stream
from fabric_protos.stream import (
    ChaincodeAdditionalParams,
    ChaincodeEvent,
    ChaincodeId,
    ChaincodeInput,
    ChaincodeMessage,
    ChaincodeProposalPayload,
    ChaincodeSpec,
    GetState,
    GetStateByRange,
    PutState,
    QueryMetadata,
    Response,
    SignaturePolicy,
    SignaturePolicyNOutOf,
)
from fabric_protos.stream import ChaincodeMessageType as Type
from fabric_protos.transaction_messages import TransactionMessages
from tests.shared_fixtures import shared_fixture

RECORDING = "chaincode-stream/go-shim-with-fabric-2.5-peer.jsonl"

ARGS = ChaincodeInput(args=[b"get", b"k1"])
PAGE = QueryMetadata(page_size=10, bookmark="k5")
BATCHES = ChaincodeAdditionalParams(
    use_write_batch=True,
    max_size_write_batch=1000,
    use_get_multiple_keys=True,
    max_size_get_multiple_keys=1000,
)
CALL = ChaincodeSpec(chaincode_id=ChaincodeId(name="other/ch2"), input=ChaincodeInput(args=[b"f"]))
EVENT = ChaincodeEvent(event_name="ev", payload=b"x")


def in_transaction(
    kind: Type, payload: bytes, event: ChaincodeEvent | None = None
) -> ChaincodeMessage:
    return ChaincodeMessage(
        type=kind, payload=payload, txid="tx1", channel_id="ch1", chaincode_event=event
    )


VECTORS = [
    (
        ChaincodeMessage(type=Type.REGISTER, payload=ChaincodeId(name="mycc:1.0").encode()),
        "08011a0a12086d7963633a312e30",
    ),
    (ChaincodeMessage(type=Type.REGISTERED), "0802"),
    (ChaincodeMessage(type=Type.READY), "0804"),
    (
        ChaincodeMessage(type=Type.READY, payload=BATCHES.encode()),
        "08041a0a080110e807180120e807",
    ),
    (ChaincodeMessage(type=Type.KEEPALIVE), "0812"),
    (
        in_transaction(Type.TRANSACTION, ARGS.encode()),
        "08051a090a036765740a026b3122037478313a03636831",
    ),
    (
        in_transaction(Type.GET_STATE, GetState(key="k1").encode()),
        "08081a040a026b3122037478313a03636831",
    ),
    (
        in_transaction(Type.PUT_STATE, PutState(key="k1", value=b"v1", collection="c1").encode()),
        "08091a0c0a026b31120276311a02633122037478313a03636831",
    ),
    (
        in_transaction(
            Type.GET_STATE_BY_RANGE,
            GetStateByRange(start_key="\x01", end_key="z", metadata=PAGE.encode()).encode(),
        ),
        "080e1a0e0a010112017a2206080a12026b3522037478313a03636831",
    ),
    (
        in_transaction(Type.INVOKE_CHAINCODE, CALL.encode()),
        "080b1a12120b12096f746865722f6368321a030a016622037478313a03636831",
    ),
    (in_transaction(Type.RESPONSE, b"v1"), "080d1a02763122037478313a03636831"),
    (
        in_transaction(Type.COMPLETED, Response(status=200, payload=b"v1").encode(), EVENT),
        "08061a0708c8011a027631220374783132071a0265762201783a03636831",
    ),
]


@pytest.mark.parametrize(
    ("message", "text"), VECTORS, ids=[Type(vector[0].type).name for vector in VECTORS]
)
def test_vectors(message: ChaincodeMessage, text: str) -> None:
    data = bytes.fromhex(text)
    assert message.encode() == data
    assert ChaincodeMessage.decode(data) == message
    assert codec.encode(codec.decode(protos.ChaincodeMessage, data)) == data


def test_a_recorded_stream_is_written_as_it_was_read() -> None:
    count = 0
    for line in shared_fixture(RECORDING).read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        data = bytes.fromhex(record["raw_hex"])
        message = ChaincodeMessage.decode(data)
        assert Type(message.type).name == record["type"]
        assert message.payload.hex() == record["payload_hex"]
        assert (message.txid, message.channel_id) == (record["txid"], record["channel"])
        assert (message.proposal is not None) == record["has_proposal"]
        assert (message.chaincode_event is not None) == record["has_event"]
        assert (message.timestamp is not None) == record["has_ts"]
        assert message.encode() == data
        assert codec.encode(codec.decode(protos.ChaincodeMessage, data)) == data
        count += 1
    assert count > 100


def test_fields_start_at_their_defaults_and_share_nothing() -> None:
    message = ChaincodeMessage()
    assert (message.type, message.payload, message.txid, message.proposal) == (0, b"", "", None)
    assert message.encode() == b""
    first, second = ChaincodeInput(), ChaincodeInput()
    first.args.append(b"a")
    first.decorations["k"] = b"v"
    assert (second.args, second.decorations) == ([], {})
    assert ChaincodeInput.decode(b"") == second


def test_classes_are_slotted_and_take_keywords_only() -> None:
    with pytest.raises(AttributeError):
        GetState().keys = "typo"  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        GetState("k1")  # type: ignore[misc]
    with pytest.raises(TypeError):
        hash(GetState())


def test_equality_is_by_class_and_fields() -> None:
    assert GetState(key="k") == GetState(key="k")
    assert GetState(key="k") != GetState(key="l")
    assert GetState() != stream.DelState()
    assert GetState() != ""
    assert ChaincodeMessage(type=4).type == Type.READY


def test_repr_tells_bytes_by_length() -> None:
    secret = b"hunter2"
    payload = ChaincodeProposalPayload(input=secret, transient_map={"password": secret})
    assert repr(payload) == (
        "ChaincodeProposalPayload(input=<7 bytes>, transient_map={'password': <7 bytes>})"
    )
    call = ChaincodeSpec(input=ChaincodeInput(args=[secret, b""]))
    assert repr(call) == (
        "ChaincodeSpec(type=0, chaincode_id=None, "
        "input=ChaincodeInput(args=[<7 bytes>, <0 bytes>], decorations={}, is_init=False), "
        "timeout=0)"
    )


def test_the_last_member_of_a_oneof_wins() -> None:
    first = SignaturePolicy(signed_by=0).encode()
    second = SignaturePolicy(n_out_of=SignaturePolicyNOutOf(n=1)).encode()
    assert first == b"\x08\x00"
    assert SignaturePolicy.decode(second + first) == SignaturePolicy(signed_by=0)
    assert SignaturePolicy.decode(first + second) == SignaturePolicy.decode(second)
    again = SignaturePolicy.decode(second + first + second)
    assert again == SignaturePolicy.decode(second)


def test_timestamps_keep_their_nanoseconds() -> None:
    stamp = stream.Timestamp(seconds=-1, nanos=999_999_999)
    assert stream.Timestamp.decode(stamp.encode()) == stamp


def test_names_are_those_of_betterproto2() -> None:
    """A class of the stream can take the place of the dataclass of that name."""
    checked = 0
    for name in stream.__all__:
        ours, theirs = getattr(stream, name), getattr(protos, name, None)
        if theirs is not None and issubclass(ours, stream.Message):
            assert set(ours.__slots__) == set(theirs._betterproto.meta_by_field_name), name
            checked += 1
        elif theirs is not None:
            assert {one.name: one.value for one in ours} == {one.name: one.value for one in theirs}
            checked += 1
    assert checked > 30


def test_the_module_loads_almost_nothing() -> None:
    """A chaincode process must not pay for dataclasses, typing or betterproto2 before REGISTER."""
    script = (
        "import sys; before = set(sys.modules); import enum; allowed = set(sys.modules);"
        "import fabric_protos.stream; print(*sorted(set(sys.modules) - allowed - before))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, check=True, text=True
    )
    extra = {name for name in done.stdout.split() if not name.startswith("fabric_protos")}
    assert extra <= {"__future__"}


@given(
    kind=st.sampled_from([*Type]).filter(bool),
    payload=st.binary() | st.sampled_from([bytes(127), bytes(128), bytes(1 << 14)]),
    txid=st.text(),
    channel_id=st.text(),
)
def test_messages_of_one_transaction(
    kind: Type, payload: bytes, txid: str, channel_id: str
) -> None:
    """Writing them with what they share gives the same bytes as writing each."""
    message = ChaincodeMessage(type=kind, payload=payload, txid=txid, channel_id=channel_id)
    assert TransactionMessages(channel_id, txid).encode(kind, payload) == message.encode()
