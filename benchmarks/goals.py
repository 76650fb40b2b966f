"""What the figures are to be, and what Fabric's peer in Go takes for the same.

Room:      benchmarks   (used by run)
Loop:      none
Lifetime:  none
Fabric:    release-2.5, built from source and measured once, on another machine of 2 cores
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

from measure import Row, figure

NO_MATTER = float("inf")
CLIENTS = "64 clients"
ATTACKS = (
    "garbage",
    "never reads",
    "burst",
    "resets",
    "dribbling",
    "half open",
    "settings",
    "headers without end",
    "knocking",
)


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound of one figure, of its ratio to the floor, or of both.

    Attributes:
        row: name of the figure among those of its subject.
        what: the figure, for a reader.
        go: the same of the peer in Go, in words; empty if nobody measured it.
    """

    subject: str
    row: str
    what: str
    _: KW_ONLY
    at_most: float = NO_MATTER
    at_least: float = 0.0
    ratio_at_most: float = NO_MATTER
    go: str = ""

    def is_met(self, row: Row) -> bool:
        """Tell whether a measured figure is within its bounds."""
        ratio = 0.0 if row.ratio is None else row.ratio
        return self.at_least <= row.value <= self.at_most and ratio <= self.ratio_at_most

    def __str__(self) -> str:
        bounds = []
        if self.at_most != NO_MATTER:
            bounds.append(f"≤ {self.at_most:,g}")
        if self.at_least:
            bounds.append(f"≥ {self.at_least:,g}")
        if self.ratio_at_most != NO_MATTER:
            bounds.append(f"≤ {self.ratio_at_most:g} x")
        return ", ".join(bounds)


GOALS: Sequence[Goal] = (
    Goal(
        "roundtrip",
        "peer, library, 1 outstanding",
        "GetState, 1 outstanding: peer",
        at_most=30,
        ratio_at_most=1.6,
    ),
    Goal(
        "roundtrip",
        "peer and chaincode, library, 1 outstanding",
        "the same, peer and chaincode",
        at_most=62,
        go="68 µs, Go chaincode",
    ),
    Goal(
        "roundtrip",
        "peer, wire, 32 outstanding",
        "GetState, 32 outstanding, scripted chaincode: peer",
        at_most=3,
    ),
    Goal(
        "roundtrip",
        "peer, Go library, 1 outstanding",
        "GetState, official Go library: peer",
        at_most=45,
    ),
    Goal(
        "roundtrip",
        "peer, Node library, 1 outstanding",
        "GetState, official Node library: peer",
        at_most=45,
    ),
    Goal(
        "services",
        f"endorse a put, {CLIENTS}, peer",
        f"endorse a put, {CLIENTS}: peer",
        at_most=340,
        go="340 µs",
    ),
    Goal(
        "services",
        "endorse a put, 1 client, rate",
        "endorse a put, 1 client: rate",
        go="560 - 590/s",
    ),
    Goal(
        "services",
        "endorse a put, 1 client, p50",
        "endorse a put, 1 client: p50",
        at_most=1.0,
        go="1.0 ms",
    ),
    Goal("services", "endorse a put, 8 clients, rate", "endorse a put, 8 clients: rate"),
    Goal(
        "services",
        f"endorse a put, {CLIENTS}, rate",
        f"endorse a put, {CLIENTS}: rate",
        go="2,680/s",
    ),
    Goal(
        "services",
        f"evaluate a get, {CLIENTS}, rate",
        f"evaluate a get through the Gateway, {CLIENTS}: rate",
        go="2,659/s",
    ),
    Goal(
        "services",
        f"submit, Gateway, {CLIENTS}, rate",
        f"submit to commit status, Gateway, {CLIENTS}",
        at_least=900,
        go="614/s",
    ),
    Goal(
        "services",
        f"submit, Broadcast and DeliverFiltered, {CLIENTS}, rate",
        f"submit to filtered block, {CLIENTS}",
        at_least=900,
    ),
    Goal(
        "services",
        f"invoke, Broadcast and DeliverFiltered, {CLIENTS}, rate",
        f"endorse, submit, filtered block, {CLIENTS}",
        go="820 - 910/s",
    ),
    Goal(
        "blocks",
        "a transaction of a block of 500, from the embedded orderer: peer",
        "a transaction of a block of 500, from the embedded orderer",
        at_most=150,
    ),
    Goal(
        "blocks",
        "a transaction of a block of 500, signatures never seen: peer",
        "the same, signatures never seen",
        at_most=150,
    ),
    Goal("launch", "launch to READY", "launch to READY, process, zygote", at_most=15),
    Goal("launch", "launch to READY, zygote off", "launch to READY, process, cold", at_most=90),
    Goal(
        "containers",
        "launch to READY, docker, bridge",
        "launch to READY, Docker, bridge",
        go="202 ms",
    ),
    Goal(
        "containers",
        "launch to READY, docker, bridge, TLS",
        "launch to READY, Docker, bridge, TLS",
        go="253 ms",
    ),
    Goal(
        "startup",
        "node start to first committed invoke",
        "`node start` to the first committed invoke",
        at_most=400,
        go="580 - 690 ms, to a query",
    ),
    Goal("startup", "demo", "`peer demo`", at_most=2_000),
    Goal(
        "bulk",
        "10,000 puts in batches",
        "10,000 puts in batches, to one by one",
        ratio_at_most=0.125,
    ),
    Goal(
        "bulk",
        "range of 10,000 keys",
        "range of 10,000 keys",
        at_most=70,
        go="83 ms, of 8.3 µs a record",
    ),
    Goal(
        "memory",
        "peer, idle, RSS",
        "peer, orderer and ledger, idle",
        at_most=90,
        go="43 MB, orderer 36 MB",
    ),
    Goal(
        "memory",
        "peer, growth in 100,000 invokes, RSS",
        "growth of the peer in 100,000 transactions",
        at_most=20,
    ),
    Goal("memory", "peer, 100 chaincodes ready, RSS", "peer with 100 chaincodes ready"),
    Goal("develop", "dev: from nothing to the prompt", "`peer dev` to the prompt", at_most=2_000),
    Goal(
        "develop",
        "dev: file change to the new code's answer",
        "file change to the new code's answer",
        at_most=500,
    ),
    Goal("newcomer", "commands", "a newcomer's commands", at_most=1, go="12, and 3 files"),
    Goal(
        "newcomer",
        "empty directory to first committed transaction",
        "empty directory to first committed transaction",
        at_most=5,
        go="33 s",
    ),
    Goal(
        "containers",
        "own share, docker, isolated",
        "launch in Docker: our own share",
        at_most=10,
        go="below 5 ms",
    ),
    Goal(
        "containers", "own share, podman, isolated", "launch in Podman: our own share", at_most=10
    ),
    *(
        Goal("hostile", f"{each}, p99", f"{each}: p99 of others", ratio_at_most=2.0)
        for each in ATTACKS
    ),
)


def told(results: Mapping[str, Sequence[Row]]) -> Iterator[tuple[str, ...]]:
    """Yield what was measured of the goals: figure, unit, ratio, goal, outcome, peer in Go."""
    rows = {(subject, row.name): row for subject, found in results.items() for row in found}
    for goal in GOALS:
        if row := rows.get((goal.subject, goal.row)):
            value = f"{figure(row.value)} {row.unit}".strip()
            ratio = "" if row.ratio is None else f"{figure(row.ratio)} x"
            bounds = str(goal)
            outcome = "" if not bounds else "met" if goal.is_met(row) else "missed"
            yield goal.what, value, ratio, bounds, outcome, goal.go
