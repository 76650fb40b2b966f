"""REGISTER to READY: the bytes, the order, and everything that is refused."""

from __future__ import annotations

import pytest
from trio.testing import wait_all_tasks_blocked

from fabric_protos.stream import ChaincodeAdditionalParams, ChaincodeId
from peer.chaincode.stream import StreamClosed
from tests.fakes.stream import Type

from .conftest import CCID, Bench

REGISTER = bytes.fromhex("08011a0a12086d7963633a312e30")
REGISTERED = bytes.fromhex("0802")


@pytest.mark.parametrize(
    ("offered", "ready"),
    [
        (ChaincodeAdditionalParams(), "0804"),
        (
            ChaincodeAdditionalParams(
                use_write_batch=True,
                max_size_write_batch=1000,
                use_get_multiple_keys=True,
                max_size_get_multiple_keys=1000,
            ),
            "08041a0a080110e807180120e807",
        ),
        (
            ChaincodeAdditionalParams(max_size_write_batch=1000, max_size_get_multiple_keys=1000),
            "08041a0610e80720e807",
        ),
    ],
)
async def test_registered_and_ready_are_these_bytes(
    bench: Bench, offered: ChaincodeAdditionalParams, ready: str
) -> None:
    bench.ready_params = offered
    handler, chaincode = bench.connect()
    assert not handler.is_ready
    chaincode.stream.send(REGISTER)
    assert await chaincode.receive_bytes() == REGISTERED
    assert await chaincode.receive_bytes() == bytes.fromhex(ready)
    assert handler.is_ready
    assert handler.ccid == CCID
    assert bench.registry.handler(CCID) is handler
    assert chaincode.nothing_waits()


async def test_nothing_is_sent_before_register(bench: Bench) -> None:
    _, chaincode = bench.connect()
    await wait_all_tasks_blocked()
    assert chaincode.nothing_waits()
    assert bench.registry.handler(CCID) is None


async def test_path_and_version_of_the_name_do_not_count(bench: Bench) -> None:
    handler, chaincode = bench.connect()
    name = ChaincodeId(path="p", name=CCID, version="9")
    chaincode.send(Type.REGISTER, name.encode())
    await chaincode.receive(Type.REGISTERED)
    assert bench.registry.handler(CCID) is handler


async def refusal(bench: Bench) -> tuple[str, str]:
    """Return the status and text the transport is given."""
    await wait_all_tasks_blocked()
    [refused] = bench.refusals
    return refused.code, str(refused)


@pytest.mark.parametrize(
    ("message", "code", "text"),
    [
        (
            "0801",
            "INVALID_ARGUMENT",
            "error in handling register chaincode, chaincodeID name is empty",
        ),
        ("08011a02ffff", "INVALID_ARGUMENT", "REGISTER without ChaincodeID: "),
        ("ffff", "INVALID_ARGUMENT", "not a ChaincodeMessage: "),
        ("1a05", "INVALID_ARGUMENT", "not a ChaincodeMessage: "),
    ],
)
async def test_a_malformed_register_ends_the_stream(
    bench: Bench, message: str, code: str, text: str
) -> None:
    _, chaincode = bench.connect()
    chaincode.stream.send(bytes.fromhex(message))
    refused = await refusal(bench)
    assert refused[0] == code
    assert refused[1].startswith(text)
    await chaincode.ended.wait()
    assert chaincode.nothing_waits()


async def test_who_is_not_recognised_is_not_even_read(bench: Bench) -> None:
    bench.gate.refuses_everybody = True
    _, chaincode = bench.connect()
    chaincode.send(Type.REGISTER, ChaincodeId(name=CCID).encode())
    assert await refusal(bench) == ("PERMISSION_DENIED", "a stranger")
    assert bench.traced == []
    assert bench.gate.reasons == []  # whoever was not let in does not end anything


async def test_a_name_that_is_not_admitted_ends_the_stream(bench: Bench) -> None:
    bench.gate.refused_names = {CCID}
    _, chaincode = bench.connect()
    chaincode.send(Type.REGISTER, ChaincodeId(name=CCID).encode())
    assert await refusal(bench) == ("PERMISSION_DENIED", "not under this name")
    assert bench.registry.handler(CCID) is None


async def test_a_duplicate_is_refused_and_the_first_stream_stays(bench: Bench) -> None:
    first, _ = await bench.ready()
    second, chaincode = bench.connect()
    chaincode.send(Type.REGISTER, ChaincodeId(name=CCID).encode())
    assert await refusal(bench) == ("ALREADY_EXISTS", f"duplicate chaincodeID: {CCID}")
    await chaincode.ended.wait()
    assert not second.is_ready
    assert bench.registry.handler(CCID) is first  # also after the duplicate has gone


async def test_the_name_is_free_again_once_its_stream_has_ended(bench: Bench) -> None:
    _, chaincode = await bench.ready()
    chaincode.close()
    await chaincode.ended.wait()
    await wait_all_tasks_blocked()
    assert bench.registry.handler(CCID) is None
    second, _ = await bench.ready()
    assert bench.registry.handler(CCID) is second


async def test_registering_twice_on_one_stream_ends_it(bench: Bench) -> None:
    _, chaincode = await bench.ready()
    chaincode.stream.send(REGISTER)
    assert await refusal(bench) == (
        "FAILED_PRECONDITION",
        "[] Fabric side handler cannot handle message (REGISTER) while in ready state",
    )
    assert bench.registry.handler(CCID) is None


async def test_a_chaincode_that_closes_before_the_answer_leaves_nothing(bench: Bench) -> None:
    handler, chaincode = bench.connect()
    chaincode.stream.send(REGISTER)
    chaincode.close()
    await wait_all_tasks_blocked()
    assert not handler.is_ready
    assert bench.registry.handler(CCID) is None
    assert bench.refusals == []
    assert len(bench.gate.reasons) == 1


async def test_every_message_is_traced_with_its_direction(bench: Bench) -> None:
    await bench.ready()
    assert bench.traced == [
        ("", True, Type.REGISTER),
        (CCID, False, Type.REGISTERED),
        (CCID, False, Type.READY),
    ]


async def test_a_memory_stream_that_nobody_reads_ends(bench: Bench) -> None:
    handler, chaincode = bench.connect(capacity=1)
    chaincode.send(Type.KEEPALIVE)
    with pytest.raises(StreamClosed, match="does not read"):
        chaincode.send(Type.KEEPALIVE)
    await wait_all_tasks_blocked()
    assert not handler.is_ready
