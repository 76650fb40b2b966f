"""What the peer counts and times.

Room:      peer.metrics   (imports peer.errors; made by app, read through library)
Loop:      none
Lifetime:  peer
Fabric:    core/chaincode/metrics.go (release-2.5)

A state request touches nothing here.
"""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Gauge, Histogram

from peer.errors import LaunchError, StageTime, StartupTimeout

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Fabric's, and beyond them what a launch may take that builds."""


class Metrics:
    """The meters of one peer, in a registry of their own: a program may hold several peers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._durations = Histogram(
            "chaincode_launch_duration",
            "Seconds from the call that launched a chaincode to READY or failure",
            ["chaincode", "success"],
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self._failures = self._counter("chaincode_launch_failures", "Launches that failed in time")
        self._timeouts = self._counter("chaincode_launch_timeouts", "Launches not READY in time")
        self._execute_timeouts = self._counter(
            "chaincode_execute_timeouts", "Executions without an answer in time"
        )
        self._stages = Histogram(
            "triopeer_chaincode_launch_stage_seconds",
            "Seconds of each stage of a launch, of failed ones up to the failure",
            ["stage"],  # which chaincode it was is in the log: a bucket for each would be too many
            buckets=BUCKETS_S,
            registry=self.registry,
        )

    def launch_settled(
        self, ccid: str, stages: Sequence[StageTime], error: LaunchError | None
    ) -> None:
        """Take in one launch."""
        success = "true" if error is None else "false"
        self._durations.labels(ccid, success).observe(sum(took_s for _, took_s in stages))
        for stage, took_s in stages:
            self._stages.labels(stage).observe(took_s)
        if error is not None:
            late = isinstance(error, StartupTimeout)
            (self._timeouts if late else self._failures).labels(ccid).inc()

    def execute_timed_out(self, ccid: str) -> None:
        """Take in one execution that was given up."""
        self._execute_timeouts.labels(ccid).inc()

    def _counter(self, name: str, text: str) -> Gauge:
        # The client's Counter appends `_total`, which Fabric's names lack.
        return Gauge(name, text, ["chaincode"], registry=self.registry)
