"""Calls through gRPC, by clients in another process than the peer.

Room:      benchmarks   (drives a peer that is a process of its own)
Loop:      one selector, see wire
Lifetime:  one process
Fabric:    none

Peer, chaincode and clients are three processes. For endorsements the peer has one CPU for itself
and the others share the rest, as far as there are more; for transactions all have all. A put is one
key of 100 bytes. Every client has a connection of its own, and proposals are signed beforehand.
What a transaction needs is signed while it is measured, as clients have to, except for submissions
alone, where everything is. The floor is the health check, over the same connections.
"""

from __future__ import annotations

import json
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple, TypeVar

from measure import CPU, YARDSTICK, Meter, Row, Samples, main, pin_process
from served import CHANNEL, Served, serving
from wire import Call, Client, Connection, Resume, Wire

from fabric_protos.codec import decode, encode
from fabric_protos.common import Envelope, Status
from fabric_protos.gateway import (
    CommitStatusRequest,
    CommitStatusResponse,
    EndorseRequest,
    EndorseResponse,
    EvaluateRequest,
    EvaluateResponse,
    SignedCommitStatusRequest,
    SubmitRequest,
)
from fabric_protos.orderer import BroadcastResponse
from fabric_protos.protos import DeliverResponse, ProposalResponse, TxValidationCode
from fabric_protos.protos import SignedProposal as SignedProposalMessage
from fabric_protos.stream import ChaincodeInput
from peer.channel import network
from peer.endorser.proposal import PreparedProposal, prepare_proposal
from peer.endorser.transaction import signed_transaction
from peer.events.requests import FOREVER, NEWEST, seek_request
from peer.msp.directory import load_signing_identity
from peer.msp.identity import SigningIdentity

CLIENTS = (1, 8, 64)
HEALTH = "/grpc.health.v1.Health/Check"
PROCESS = "/protos.Endorser/ProcessProposal"
BROADCAST = "/orderer.AtomicBroadcast/Broadcast"
FILTERED = "/protos.Deliver/DeliverFiltered"
GATEWAY = "/gateway.Gateway/"
ECHO = Path(__file__).with_name("echo.py")

FLOOR = "health check"
ECHO_NAME = "echo of 150 bytes over TCP, answering side"
OPERATIONS = (FLOOR, "endorse nothing", "endorse a put", "evaluate a get")
FIGURES = (("rate", "/s", 1), ("p50", "ms", 1e3), ("p99", "ms", 1e3), ("peer", CPU, 1e6))
ROUTES = ("Broadcast and DeliverFiltered", "Gateway")
T = TypeVar("T")

_numbers = count()


class Network:
    """What clients know: who they are, where the peer is, and how to sign."""

    def __init__(self, served: Served, *, tls: bool) -> None:
        made = network.load(served.directory / "network")
        [organisation] = made.organisations
        self.served = served
        self.identity: SigningIdentity = load_signing_identity(
            organisation.users[1].msp, organisation.msp_id
        )
        self._peer_tls = self._orderer_tls = None
        if tls:
            self._peer_tls = _tls(organisation.nodes[0].tls / "ca.crt")
            self._orderer_tls = _tls(made.orderer.nodes[0].tls / "ca.crt")

    def peers(self, wire: Wire, clients: int) -> list[Connection]:
        """Open connections to the peer."""
        return [wire.connect(self.served.address, self._peer_tls) for _ in range(clients)]

    def orderers(self, wire: Wire, clients: int) -> list[Connection]:
        """Open connections to the orderer."""
        return [wire.connect(self.served.orderer, self._orderer_tls) for _ in range(clients)]

    def propose(self, *args: str) -> PreparedProposal:
        """Sign a proposal that nobody has seen yet."""
        payload = ChaincodeInput(args=[arg.encode() for arg in args])
        return prepare_proposal(self.identity, CHANNEL, "cc", payload, {})

    def put(self) -> PreparedProposal:
        """Propose to write a key that nobody has written yet."""
        return self.propose("put_bytes", f"s{next(_numbers):09}", "100")

    def envelope(self, proposal: PreparedProposal, endorsed: bytes) -> bytes:
        """Make a transaction of an endorsement."""
        response = decode(ProposalResponse, endorsed)
        return signed_transaction(proposal.signed, [response], self.identity)

    def status_request(self, tx_id: str) -> bytes:
        """Ask for the verdict on a transaction."""
        creator = self.identity.creator
        request = encode(
            CommitStatusRequest(transaction_id=tx_id, channel_id=CHANNEL, identity=creator)
        )
        signature = self.identity.sign(request)
        return encode(SignedCommitStatusRequest(request=request, signature=signature))


class Endorsed(NamedTuple):
    """A transaction that only needs to be submitted."""

    tx_id: str
    envelope: bytes
    status_request: bytes


class Verdicts:
    """Filtered blocks, as one client of the peer receives them for all.

    Attributes:
        told: transactions that are committed, and for which nobody has waited yet.
    """

    def __init__(self, connection: Connection) -> None:
        self._waiting: dict[str, Resume] = {}
        self.told: set[str] = set()
        self._blocks = connection.stream(FILTERED)

    def begin(self, known: Network) -> Client:
        """Take the newest block, and from then on every one."""
        request = seek_request(known.identity, CHANNEL, NEWEST, FOREVER)
        self._take((yield partial(self._blocks.ask, request)))

    def wait(self, tx_id: str, resume: Resume) -> None:
        """Call `resume` once the transaction is committed."""
        if tx_id in self.told:
            self.told.remove(tx_id)
            resume(b"")
        else:
            self._waiting[tx_id] = resume

    def _take(self, message: bytes) -> None:
        block = decode(DeliverResponse, message).filtered_block
        if block is None:
            raise RuntimeError(f"no block: {message!r}")
        for transaction in block.filtered_transactions:
            if transaction.tx_validation_code != TxValidationCode.VALID:
                raise RuntimeError(f"{transaction.txid}: {transaction.tx_validation_code}")
            if resume := self._waiting.pop(transaction.txid, None):
                resume(b"")
            else:
                self.told.add(transaction.txid)
        self._blocks.next(self._take)


class Broadcasts:
    """A client's way through the orderer.

    Args:
        verdicts: where all clients hear of commits.
    """

    def __init__(
        self, known: Network, peer: Connection, orderer: Connection, verdicts: Verdicts
    ) -> None:
        self._known = known
        self._peer = peer
        self._broadcast: Call = orderer.stream(BROADCAST)
        self._verdicts = verdicts

    def invoke(self, proposal: PreparedProposal) -> Client:
        """Endorse, submit, and wait for the commit."""
        endorsed = yield partial(self._peer.unary, PROCESS, proposal.signed.encode())
        yield from self._submit(proposal.tx_id, self._known.envelope(proposal, endorsed))

    def submit(self, transaction: Endorsed) -> Client:
        """Submit and wait for the commit."""
        yield from self._submit(transaction.tx_id, transaction.envelope)

    def hand_in(self, transaction: Endorsed) -> Client:
        """Submit, and wait for no more than that the orderer has it."""
        yield from self._hand_in(transaction.tx_id, transaction.envelope)

    def _submit(self, tx_id: str, envelope: bytes) -> Client:
        yield from self._hand_in(tx_id, envelope)
        yield partial(self._verdicts.wait, tx_id)

    def _hand_in(self, tx_id: str, envelope: bytes) -> Client:
        taken = decode(BroadcastResponse, (yield partial(self._broadcast.ask, envelope)))
        if taken.status != Status.SUCCESS:
            raise RuntimeError(f"{tx_id}: {taken}")


class Gateway:
    """A client's way through the Gateway."""

    def __init__(self, known: Network, peer: Connection) -> None:
        self._known = known
        self._peer = peer

    def invoke(self, proposal: PreparedProposal) -> Client:
        """Endorse, submit, and wait for the commit."""
        request = EndorseRequest(
            transaction_id=proposal.tx_id,
            channel_id=CHANNEL,
            proposed_transaction=_message(proposal),
        )
        endorsed = yield partial(self._peer.unary, GATEWAY + "Endorse", encode(request))
        prepared = decode(EndorseResponse, endorsed).prepared_transaction
        assert prepared is not None
        prepared.signature = self._known.identity.sign(prepared.payload)
        status_request = self._known.status_request(proposal.tx_id)
        yield from self._submit(proposal.tx_id, prepared, status_request)

    def submit(self, transaction: Endorsed) -> Client:
        """Submit and wait for the commit."""
        prepared = decode(Envelope, transaction.envelope)
        yield from self._submit(transaction.tx_id, prepared, transaction.status_request)

    def _submit(self, tx_id: str, prepared: Envelope, status_request: bytes) -> Client:
        request = SubmitRequest(
            transaction_id=tx_id, channel_id=CHANNEL, prepared_transaction=prepared
        )
        yield partial(self._peer.unary, GATEWAY + "Submit", encode(request))
        told = yield partial(self._peer.unary, GATEWAY + "CommitStatus", status_request)
        if (result := decode(CommitStatusResponse, told).result) != TxValidationCode.VALID:
            raise RuntimeError(f"{tx_id}: {result}")


def rows(quick: bool) -> list[Row]:
    """Measure the services, without TLS and with it."""
    samples, calls = Samples(), 128 if quick else 640
    for tls, rounds in ((False, 1 if quick else 5), (True, 1 if quick else 2)):
        with (
            tempfile.TemporaryDirectory() as directory,
            serving(Path(directory), tls=tls) as served,
        ):
            bench = Bench(samples, Network(served, tls=tls), calls, ", TLS" if tls else "")
            for _ in range(rounds):
                samples.yardstick()
                bench.take_calls()
                bench.take_transactions()
    for _ in range(rounds):
        samples.add(ECHO_NAME, _echo(calls) / calls)
    return [*_found(samples), samples.row(YARDSTICK, CPU)]


class Bench:
    """A peer under measurement.

    Args:
        calls: of one sample with the most clients; with fewer there are a quarter.
        suffix: of the names of what is measured.
    """

    def __init__(self, samples: Samples, known: Network, calls: int, suffix: str) -> None:
        self._samples = samples
        self._known = known
        self._calls = calls
        self._suffix = suffix

    def take_calls(self) -> None:
        """Take one sample of each call that changes nothing, the peer on a CPU of its own."""
        known, cpus = self._known, sorted(os.sched_getaffinity(0))
        others = (known.served.chaincode, os.getpid())
        pin_process(known.served.pid, cpus[:1])
        for pid in others:
            pin_process(pid, cpus[1:] or cpus)
        makes: dict[str, Callable[[], bytes]] = {
            FLOOR: lambda: b"",
            "endorse nothing": lambda: known.propose("gets", "0", "k").signed.encode(),
            "endorse a put": lambda: known.put().signed.encode(),
            "evaluate a get": lambda: _evaluation(known.propose("get", "k")),
        }
        works = dict(zip(OPERATIONS, (_check, endorse, endorse, _evaluate), strict=True))
        for clients in CLIENTS:
            number = self._calls if clients == CLIENTS[-1] else max(self._calls // 4, 2 * clients)
            for what in OPERATIONS:
                with closing(Wire()) as wire:
                    ways = [partial(works[what], each) for each in known.peers(wire, clients)]
                    wire.run(client(way, iter([makes[what]()]), []) for way in ways)  # wakes it up
                    items = [makes[what]() for _ in range(number)]
                    self._measure(wire, _name(what, clients), ways, items)
        for pid in (known.served.pid, *others):
            pin_process(pid, cpus)

    def take_transactions(self) -> None:
        """Take one sample of each way to commit."""
        known, clients = self._known, CLIENTS[-1]
        number = max(self._calls // 2, 2 * clients)
        for route in ROUTES:
            with closing(Wire()) as wire:
                peers = known.peers(wire, clients)
                if route == "Gateway":
                    ways: Sequence[Broadcasts | Gateway] = [Gateway(known, each) for each in peers]
                else:
                    [listener] = known.peers(wire, 1)
                    verdicts = Verdicts(listener)
                    wire.run([verdicts.begin(known)])
                    pairs = zip(peers, known.orderers(wire, clients), strict=True)
                    ways = [Broadcasts(known, *pair, verdicts) for pair in pairs]
                invokes = [way.invoke for way in ways]
                wire.run(client(way, iter([known.put()]), []) for way in invokes)
                proposals = [known.put() for _ in range(number)]
                self._measure(wire, _name(f"invoke, {route}", clients), invokes, proposals)
                puts = [known.put() for _ in range(number)]
                transactions = endorsed(known, wire, peers, puts)
                submits = [way.submit for way in ways]
                self._measure(wire, _name(f"submit, {route}", clients), submits, transactions)

    def _measure(
        self, wire: Wire, name: str, ways: Sequence[Callable[[T], Client]], items: Sequence[T]
    ) -> None:
        """Let clients take one item after the other, each in its own way."""
        samples, name, queue = self._samples, name + self._suffix, iter(items)
        took: list[float] = []
        meter = Meter(self._known.served.pid, os.getpid())
        wire.run(client(way, queue, took) for way in ways)
        wall, peer, driver = meter.lap()
        samples.add(f"{name}, rate", len(items) / wall)
        samples.add(f"{name}, peer", peer / len(items))
        samples.add(f"{name}, driver", driver / len(items))
        percentiles = statistics.quantiles(took, n=100, method="inclusive")
        samples.add(f"{name}, p50", percentiles[49])
        samples.add(f"{name}, p99", percentiles[98])


def client(way: Callable[[T], Client], items: Iterator[T], took: list[float]) -> Client:
    for item in items:
        began = time.perf_counter()
        yield from way(item)
        took.append(time.perf_counter() - began)


def _check(peer: Connection, message: bytes) -> Client:
    yield partial(peer.unary, HEALTH, message)


def endorse(peer: Connection, message: bytes) -> Client:
    answer = yield partial(peer.unary, PROCESS, message)
    if b"\x08\xc8\x01" not in answer:  # status 200, of a response that is not read here
        raise RuntimeError(str(decode(ProposalResponse, answer)))


def _evaluate(peer: Connection, message: bytes) -> Client:
    answer = yield partial(peer.unary, GATEWAY + "Evaluate", message)
    if b"\x08\xc8\x01" not in answer:
        raise RuntimeError(str(decode(EvaluateResponse, answer)))


def endorsed(
    known: Network, wire: Wire, peers: Sequence[Connection], proposals: Sequence[PreparedProposal]
) -> list[Endorsed]:
    """Have transactions endorsed, and all of their requests signed."""
    found = []

    def work(peer: Connection, proposal: PreparedProposal) -> Client:
        answer = yield partial(peer.unary, PROCESS, proposal.signed.encode())
        tx_id, envelope = proposal.tx_id, known.envelope(proposal, answer)
        found.append(Endorsed(tx_id, envelope, known.status_request(tx_id)))

    queue = iter(proposals)
    wire.run(client(partial(work, peer), queue, []) for peer in peers)
    return found


def _message(proposal: PreparedProposal) -> SignedProposalMessage:
    signed = proposal.signed
    return SignedProposalMessage(proposal_bytes=signed.proposal_bytes, signature=signed.signature)


def _evaluation(proposal: PreparedProposal) -> bytes:
    return encode(
        EvaluateRequest(
            transaction_id=proposal.tx_id,
            channel_id=CHANNEL,
            proposed_transaction=_message(proposal),
        )
    )


def _tls(authority: Path) -> ssl.SSLContext:
    """Trust an authority, whatever name it certifies: nodes have names, addresses are numbers."""
    context = ssl.create_default_context(cafile=authority)
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    return context


def _echo(trips: int) -> float:
    """Return the CPU seconds of the side that answers, one message outstanding."""
    command = [sys.executable, str(ECHO), str(trips), "1"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    _, _, answering = json.loads(done.stdout)
    return float(answering)


def _found(samples: Samples) -> Iterator[Row]:
    for suffix in ("", ", TLS"):
        names = [_name(what, clients) for what in OPERATIONS for clients in CLIENTS]
        names += [
            _name(f"{what}, {route}", CLIENTS[-1])
            for route in ROUTES
            for what in ("invoke", "submit")
        ]
        for name in names:
            clients = name.rpartition(", ")[2]
            own = name + suffix
            floor = f"{FLOOR}, {clients}{suffix}"
            for figure, unit, scale in FIGURES:
                to = f"{floor}, {figure}" if own != floor else ""
                yield samples.row(f"{own}, {figure}", unit, scale=scale, to=to)
            yield samples.row(f"{own}, driver", "µs")
    yield samples.row(ECHO_NAME, CPU)


def _name(what: str, clients: int) -> str:
    return f"{what}, {clients} client{'s' * (clients > 1)}"


if __name__ == "__main__":
    main(rows)
