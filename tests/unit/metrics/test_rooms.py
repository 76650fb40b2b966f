"""What each room hands over, and how it is told."""

from __future__ import annotations

import pytest

from fabric_protos.stream import HeaderType
from peer.errors import Code
from peer.ledger.api import ValidationCode
from peer.metrics import Metrics


def test_requests_of_an_execution() -> None:
    metrics = Metrics()
    metrics.chaincode.execution_ended("cc:1", "ch1", "GET_STATE", 5, 1)
    metrics.chaincode.execution_ended("cc:1", "ch1", "PUT_STATE", 2, 2)
    metrics.chaincode.execution_ended("cc:1", "ch1", "DEL_STATE", 1, 0)
    metrics.chaincode.execution_ended("cc:1", "ch1", "GET_STATE", 1, 0)
    lines = [
        line for line in metrics.registry.text().splitlines() if line.startswith("chaincode_shim")
    ]
    where = 'channel="ch1",chaincode="cc:1"'
    assert lines == [
        f'chaincode_shim_requests_received{{type="GET_STATE",{where}}} 6',
        f'chaincode_shim_requests_received{{type="PUT_STATE",{where}}} 2',
        f'chaincode_shim_requests_received{{type="DEL_STATE",{where}}} 1',
        f'chaincode_shim_requests_completed{{type="GET_STATE",{where},success="false"}} 1',
        f'chaincode_shim_requests_completed{{type="GET_STATE",{where},success="true"}} 5',
        f'chaincode_shim_requests_completed{{type="PUT_STATE",{where},success="false"}} 2',
        f'chaincode_shim_requests_completed{{type="DEL_STATE",{where},success="true"}} 1',
    ]


def test_a_block() -> None:
    metrics = Metrics()
    transactions = [
        ((HeaderType.ENDORSER_TRANSACTION, "cc:1.0"), ValidationCode.VALID),
        ((HeaderType.ENDORSER_TRANSACTION, "cc:1.0"), ValidationCode.MVCC_READ_CONFLICT),
        ((-1, ""), ValidationCode.ENDORSEMENT_POLICY_FAILURE),
        ((HeaderType.CONFIG, ""), ValidationCode.VALID),
    ]
    metrics.ledger.block_committed("ch1", (0.002, 0.01, 0.04, 2.0), transactions)
    value = metrics.registry.value

    def count(kind: str, chaincode: str, code: str) -> float | None:
        labels = {"transaction_type": kind, "chaincode": chaincode, "validation_code": code}
        return value("ledger_transaction_count", channel="ch1", **labels)

    assert count("ENDORSER_TRANSACTION", "cc:1.0", "VALID") == 1
    assert count("ENDORSER_TRANSACTION", "cc:1.0", "MVCC_READ_CONFLICT") == 1
    assert count("unknown", "unknown", "ENDORSEMENT_POLICY_FAILURE") == 1
    assert count("CONFIG", "unknown", "VALID") == 1
    sums = {
        "ledger_block_processing_time": 0.002,
        "ledger_blockstorage_and_pvtdata_commit_time": 0.05,
        "ledger_blockstorage_commit_time": 0.04,
        "ledger_statedb_commit_time": 2.0,
    }
    for name, seconds in sums.items():
        assert value(f"{name}_sum", channel="ch1") == seconds
        assert value(f"{name}_bucket", channel="ch1", le="0.015") == (seconds <= 0.015)


def test_what_is_read_when_somebody_asks() -> None:
    heights, entries = {"ch1": 4}, {"info": (7, 5)}
    metrics = Metrics("1.2.3", heights=lambda: heights, log_entries=lambda: entries)
    value = metrics.registry.value
    assert value("fabric_version", version="1.2.3") == 1
    assert value("ledger_blockchain_height", channel="ch1") == 4
    heights["ch2"] = 1
    assert value("ledger_blockchain_height", channel="ch2") == 1
    assert value("logging_entries_checked", level="info") == 7
    assert value("logging_entries_written", level="info") == 5


def test_a_stream_of_blocks() -> None:
    metrics = Metrics()
    value, which = metrics.registry.value, {"channel": "ch1", "data_type": "filtered_block"}
    with metrics.deliver.stream():
        with metrics.deliver.request("ch1", "filtered_block") as count:
            count()
            count()
        with pytest.raises(KeyError), metrics.deliver.request("ch1", "block") as count:
            raise KeyError
        assert (value("deliver_streams_opened"), value("deliver_streams_closed")) == (1, 0)
    assert value("deliver_streams_closed") == 1
    assert value("deliver_requests_received", filtered="true", **which) == 1
    assert value("deliver_blocks_sent", filtered="true", **which) == 2
    assert value("deliver_requests_completed", filtered="true", success="true", **which) == 1
    which["data_type"] = "block"
    assert value("deliver_requests_completed", filtered="false", success="false", **which) == 1


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (Code.OK, "OK"),
        (Code.CANCELLED, "Canceled"),
        (Code.NOT_FOUND, "NotFound"),
        (Code.RESOURCE_EXHAUSTED, "ResourceExhausted"),
        (Code.UNAVAILABLE, "Unavailable"),
    ],
)
def test_a_call(code: Code, name: str) -> None:
    metrics = Metrics()
    metrics.grpc.call_began("/gateway.Gateway/Evaluate", is_stream=False)
    metrics.grpc.call_ended("/gateway.Gateway/Evaluate", code, 0.5, is_stream=False)
    which = {"service": "gateway_Gateway", "method": "Evaluate"}
    value = metrics.registry.value
    assert value("grpc_server_unary_requests_received", **which) == 1
    assert value("grpc_server_unary_requests_completed", code=name, **which) == 1
    assert value("grpc_server_unary_request_duration_sum", code=name, **which) == 0.5
    assert value("grpc_server_stream_requests_received", **which) is None
