"""Reading and writing messages: the generated classes, the compiled codec, betterproto2's own.

Room:      benchmarks   (imports fabric_protos)
Loop:      none
Lifetime:  one process
Fabric:    none

Ratios are to betterproto2's own ``parse`` and ``bytes()``, which check less.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from measure import CPU, YARDSTICK, Row, Samples, main, pin

from fabric_protos import codec, stream
from fabric_protos.kvrwset import KvRead, KvrwSet, KvWrite, Version
from fabric_protos.protos import ChaincodeMessage, ChaincodeMessageType

Operation = Callable[[], object]
OWN = "betterproto2"
KEYS = 100
TIME_S = 0.02
"""CPU time of one sample."""


def rows(quick: bool) -> list[Row]:
    """Measure the codecs on the message of the hot path and on a read-write set."""
    pin()
    samples = Samples()
    compared = {**chaincode_message(), **read_write_set()}
    counts = {name: _count(operation) for name, operation in compared.items()}
    for _ in range(3 if quick else 25):
        samples.yardstick()
        for name, operation in compared.items():
            samples.add(name, _seconds(operation, counts[name]) / counts[name])
    return [samples.row(name, CPU, to=_own(name)) for name in (*compared, YARDSTICK)]


def chaincode_message() -> dict[str, Operation]:
    """Return what can be done with a GET_STATE's answer: 100 bytes under ids of usual length."""
    payload, txid, channel_id = b"v" * 100, "0123456789abcdef" * 4, "mychannel"
    kind = ChaincodeMessageType.RESPONSE
    message = ChaincodeMessage(type=kind, payload=payload, txid=txid, channel_id=channel_id)
    slotted = stream.ChaincodeMessage(
        type=int(kind), payload=payload, txid=txid, channel_id=channel_id
    )
    data = bytes(message)
    if not data == codec.encode(message) == slotted.encode():
        raise RuntimeError("the codecs disagree")
    return {
        "decode ChaincodeMessage, stream": lambda: stream.ChaincodeMessage.decode(data),
        "decode ChaincodeMessage, codec": lambda: codec.decode(ChaincodeMessage, data),
        f"decode ChaincodeMessage, {OWN}": lambda: ChaincodeMessage.parse(data),
        "encode ChaincodeMessage, stream": slotted.encode,
        "encode ChaincodeMessage, codec": lambda: codec.encode(message),
        f"encode ChaincodeMessage, {OWN}": lambda: bytes(message),
    }


def read_write_set() -> dict[str, Operation]:
    """Return what can be done with a transaction that reads and writes each of its keys."""
    keys = [f"k{number:07}" for number in range(KEYS)]
    message = KvrwSet(
        reads=[KvRead(key=key, version=Version(block_num=7, tx_num=1)) for key in keys],
        writes=[KvWrite(key=key, value=b"v" * 100) for key in keys],
    )
    data = bytes(message)
    if data != codec.encode(message):
        raise RuntimeError("the codecs disagree")
    return {
        f"decode {KEYS}-key rwset, codec": lambda: codec.decode(KvrwSet, data),
        f"decode {KEYS}-key rwset, {OWN}": lambda: KvrwSet.parse(data),
        f"encode {KEYS}-key rwset, codec": lambda: codec.encode(message),
        f"encode {KEYS}-key rwset, {OWN}": lambda: bytes(message),
    }


def _own(name: str) -> str:
    what, _, which = name.rpartition(", ")
    return f"{what}, {OWN}" if which in ("stream", "codec") else ""


def _count(operation: Operation) -> int:
    """Return how often to repeat an operation for one sample; the first call compiles."""
    operation()
    return max(1, round(TIME_S / _seconds(operation, 10) * 10))


def _seconds(operation: Operation, count: int) -> float:
    began = time.process_time()
    for _ in range(count):
        operation()
    return time.process_time() - began


if __name__ == "__main__":
    main(rows)
