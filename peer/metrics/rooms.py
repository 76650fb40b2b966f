"""Every meter there is, a group for each room that counts.

Room:      peer.metrics   (imports peer.errors)
Loop:      Trio
Lifetime:  peer
Fabric:    metrics.go in core/chaincode, core/endorser, core/ledger/kvledger, common/deliver,
           common/grpcmetrics (release-2.5)

Names and labels are Fabric's; what Fabric has not is called ``triopeer_…``. docs/operations.md
explains each, and a test compares.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from functools import cache

from fabric_protos.stream import HeaderType
from peer.errors import LaunchError, StageTime, StartupTimeout
from peer.metrics.meters import Registry

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LAUNCH_BUCKETS_S = (*BUCKETS_S, 30.0, 60.0, 300.0)
"""Fabric's, and beyond them what a launch may take that builds."""
LEDGER_BUCKETS_S = (0.005, 0.01, 0.015, 0.05, 0.1, 1.0, 10.0)
UNKNOWN = "unknown"

_TYPES: Mapping[int, str] = {kind: kind.name for kind in HeaderType}


def flag(is_so: bool) -> str:
    """Return a truth as a label."""
    return "true" if is_so else "false"


@cache  # of what is served, no more
def _service_and_method(path: str) -> tuple[str, str]:
    service, _, method = path.lstrip("/").replace(".", "_").partition("/")
    return service, method


@cache
def _code(code: IntEnum) -> str:
    """Return the name of a status code as Go has it."""
    match code.name:
        case "OK":
            return "OK"
        case "CANCELLED":
            return "Canceled"
        case name:
            return name.title().replace("_", "")


class ChaincodeMeters:
    """Launches, executions, and what chaincodes ask for; a state request touches nothing here."""

    def __init__(self, registry: Registry) -> None:
        self._durations = registry.histogram(
            "chaincode_launch_duration",
            "Seconds from the call that launched a chaincode to READY or failure",
            "chaincode",
            "success",
            buckets=LAUNCH_BUCKETS_S,
        )
        self._failures = registry.counter(
            "chaincode_launch_failures", "Launches that failed in time", "chaincode"
        )
        self._timeouts = registry.counter(
            "chaincode_launch_timeouts", "Launches not READY in time", "chaincode"
        )
        self._stages = registry.histogram(
            "triopeer_chaincode_launch_stage_seconds",
            "Seconds of each stage of a launch, of failed ones up to the failure",
            "stage",  # which chaincode it was is in the log: a bucket for each would be too many
            buckets=LAUNCH_BUCKETS_S,
        )
        self._execute_timeouts = registry.counter(
            "chaincode_execute_timeouts", "Executions without an answer in time", "chaincode"
        )
        what = ("type", "channel", "chaincode")
        self._received = registry.counter(
            "chaincode_shim_requests_received", "Requests of executions that have ended", *what
        )
        self._completed = registry.counter(
            "chaincode_shim_requests_completed", "Those that were answered", *what, "success"
        )
        self._requests = registry.histogram(
            "chaincode_shim_request_duration",
            "Seconds to the answer of requests that may wait",
            *what,
            "success",
            buckets=BUCKETS_S,
        )

    def launch_settled(
        self, ccid: str, stages: Sequence[StageTime], error: LaunchError | None
    ) -> None:
        """Take in one launch."""
        took_s = sum(stage_s for _, stage_s in stages)
        self._durations.observe(took_s, ccid, flag(error is None))
        for stage, stage_s in stages:
            self._stages.observe(stage_s, stage)
        if error is not None:
            late = isinstance(error, StartupTimeout)
            (self._timeouts if late else self._failures).inc(ccid)

    def execute_timed_out(self, ccid: str) -> None:
        """Take in one execution that was given up."""
        self._execute_timeouts.inc(ccid)

    def request_took(
        self, took_s: float, kind: str, channel_id: str, ccid: str, is_answer: bool
    ) -> None:
        """Take in a request that had a task of its own."""
        self._requests.observe(took_s, kind, channel_id, ccid, flag(is_answer))

    def execution_ended(
        self, ccid: str, channel_id: str, kind: str, received: int, failed: int
    ) -> None:
        """Take in the requests of one type that one execution made."""
        self._received.inc(kind, channel_id, ccid, by=received)
        if failed:
            self._completed.inc(kind, channel_id, ccid, "false", by=failed)
        if received > failed:
            self._completed.inc(kind, channel_id, ccid, "true", by=received - failed)


class EndorserMeters:
    """Proposals, and what became of them."""

    def __init__(self, registry: Registry) -> None:
        counter, which = registry.counter, ("channel", "chaincode")
        self.received = counter("endorser_proposals_received", "Proposals received")
        self.successful = counter(
            "endorser_successful_proposals", "Proposals endorsed, or answered without a channel"
        )
        self.invalid = counter(
            "endorser_proposal_validation_failures", "Proposals unreadable or not authentic"
        )
        self.denied = counter(
            "endorser_proposal_acl_failures", "Proposals whose creator may not propose", *which
        )
        self.duplicates = counter(
            "endorser_duplicate_transaction_failures", "Proposals whose id was used before", *which
        )
        self.not_instantiated = counter(
            "endorser_chaincode_instantiation_failures", "Init that failed (lscc)", *which
        )
        self.not_simulated = counter(
            "endorser_proposal_simulation_failures", "Proposals that gave no response", *which
        )
        self.not_endorsed = counter(
            "endorser_endorsement_failures",
            "Responses of a status that is not endorsed",
            *which,
            "chaincodeerror",
        )
        self.durations = registry.histogram(
            "endorser_proposal_duration",
            "Seconds from receipt to answer of proposals that were taken",
            *which,
            "success",
            buckets=BUCKETS_S,
        )


class LedgerMeters:
    """Blocks and transactions."""

    def __init__(self, registry: Registry) -> None:
        def histogram(name: str, text: str) -> Callable[[float, str], None]:
            return registry.histogram(name, text, "channel", buckets=LEDGER_BUCKETS_S).observe

        self._processing = histogram(
            "ledger_block_processing_time", "Seconds of checking a block for conflicts"
        )
        self._storage_and_private = histogram(
            "ledger_blockstorage_and_pvtdata_commit_time",
            "Seconds of writing a block and its private data",
        )
        self._storage = histogram(
            "ledger_blockstorage_commit_time", "Seconds of writing a block to its file"
        )
        self._state = histogram(
            "ledger_statedb_commit_time", "Seconds of writing state, history and indexes"
        )
        self._transactions = registry.counter(
            "ledger_transaction_count",
            "Transactions in committed blocks",
            "channel",
            "transaction_type",
            "chaincode",
            "validation_code",
        )

    def block_committed(
        self,
        channel_id: str,
        times: tuple[float, float, float, float],
        transactions: Iterable[tuple[tuple[int, str], IntEnum]],
    ) -> None:
        """Take in one block.

        Args:
            times: seconds of checking, private data, block file, databases.
            transactions: type and chaincode of each, and the verdict.
        """
        processing_s, private_s, storage_s, state_s = times
        self._processing(processing_s, channel_id)
        self._storage_and_private(private_s + storage_s, channel_id)
        self._storage(storage_s, channel_id)
        self._state(state_s, channel_id)
        for (kind, chaincode), code in transactions:
            type_name = _TYPES.get(kind, UNKNOWN)
            self._transactions.inc(channel_id, type_name, chaincode or UNKNOWN, code.name)


class DeliverMeters:
    """Blocks sent to clients."""

    def __init__(self, registry: Registry) -> None:
        counter, which = registry.counter, ("channel", "filtered", "data_type")
        self._opened = counter("deliver_streams_opened", "Streams opened")
        self._closed = counter("deliver_streams_closed", "Streams closed")
        self._received = counter("deliver_requests_received", "Requests for blocks", *which)
        self._completed = counter(
            "deliver_requests_completed", "Requests for blocks that are over", *which, "success"
        )
        self._sent = counter("deliver_blocks_sent", "Blocks sent", *which)

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Count a stream."""
        self._opened.inc()
        try:
            yield
        finally:
            self._closed.inc()

    @contextmanager
    def request(self, channel_id: str, data_type: str) -> Iterator[Callable[[], None]]:
        """Count a request, which fails if this block does; yield what counts a block."""
        which = (channel_id, flag(data_type == "filtered_block"), data_type)
        self._received.inc(*which)
        is_success = False
        try:
            yield lambda: self._sent.inc(*which)
            is_success = True
        finally:
            self._completed.inc(*which, flag(is_success))


class GrpcMeters:
    """Connections and calls of a server."""

    def __init__(self, registry: Registry) -> None:
        counter, which = registry.counter, ("service", "method")
        self._opened = counter("grpc_comm_conn_opened", "Connections opened")
        self._closed = counter("grpc_comm_conn_closed", "Connections closed")
        self._kinds = {}
        for kind in ("unary", "stream"):
            name = f"grpc_server_{kind}_request"
            self._kinds[kind] = (
                counter(f"{name}s_received", f"Calls, {kind}", *which),
                counter(f"{name}s_completed", f"Calls that are over, {kind}", *which, "code"),
                registry.histogram(
                    f"{name}_duration",
                    f"Seconds of a call, {kind}",
                    *which,
                    "code",
                    buckets=BUCKETS_S,
                ),
            )
        self._messages_received = counter(
            "grpc_server_stream_messages_received", "Messages of streams received", *which
        )
        self._messages_sent = counter(
            "grpc_server_stream_messages_sent", "Messages of streams sent", *which
        )

    @contextmanager
    def connection(self) -> Iterator[None]:
        """Count a connection."""
        self._opened.inc()
        try:
            yield
        finally:
            self._closed.inc()

    def call_began(self, path: str, *, is_stream: bool) -> None:
        """Take in a call of ``/package.Service/Method``."""
        self._kinds["stream" if is_stream else "unary"][0].inc(*_service_and_method(path))

    def call_ended(self, path: str, code: IntEnum, took_s: float, *, is_stream: bool) -> None:
        """Take in the end of a call."""
        _, completed, durations = self._kinds["stream" if is_stream else "unary"]
        labels = (*_service_and_method(path), _code(code))
        completed.inc(*labels)
        durations.observe(took_s, *labels)

    def message_received(self, path: str) -> None:
        """Take in a request of a stream."""
        self._messages_received.inc(*_service_and_method(path))

    def message_sent(self, path: str) -> None:
        """Take in a response of a stream."""
        self._messages_sent.inc(*_service_and_method(path))


class Metrics:
    """The meters of one peer.

    Args:
        version: of this program.
        heights: returns the height of every channel.
        ordered: returns the channels whose blocks come, or would if there were any.
        log_entries: returns, by level, how many log records were looked at and how many written.
        chaincode: what counts launches and executions.
    """

    def __init__(
        self,
        version: str = "",
        *,
        heights: Callable[[], Mapping[str, int]] = dict,
        ordered: Callable[[], Collection[str]] = list,
        log_entries: Callable[[], Mapping[str, tuple[int, int]]] = dict,
        chaincode: type[ChaincodeMeters] = ChaincodeMeters,
    ) -> None:
        registry = self.registry = Registry()
        self.chaincode = chaincode(registry)
        self.endorser = EndorserMeters(registry)
        self.ledger = LedgerMeters(registry)
        self.deliver = DeliverMeters(registry)
        self.grpc = GrpcMeters(registry)

        registry.reading(
            "ledger_blockchain_height",
            "Number of blocks",
            "channel",
            read=lambda: {(channel_id,): height for channel_id, height in heights().items()},
        )
        registry.reading(
            "triopeer_ordering_up",
            "1 while a channel is ordered here, or an orderer's blocks are followed",
            "channel",
            read=lambda: {(each,): int(each in ordered()) for each in heights()},
        )
        registry.reading(
            "fabric_version", "Version of this program", "version", read=lambda: {(version,): 1}
        )
        registry.reading(
            "logging_entries_checked",
            "Log records looked at",
            "level",
            kind="counter",
            read=lambda: {(level,): counts[0] for level, counts in log_entries().items()},
        )
        registry.reading(
            "logging_entries_written",
            "Log records written",
            "level",
            kind="counter",
            read=lambda: {(level,): counts[1] for level, counts in log_entries().items()},
        )
