"""Blocks of 500 through the whole validator: signatures, policies, conflicts, disk.

Room:      benchmarks   (drives a peer that is a process of its own, and peer.validation alone)
Loop:      one selector, see wire; Trio
Lifetime:  one process
Fabric:    none

A transaction reads a key and writes it; a client has signed it, and one peer has endorsed it.
*From the embedded orderer*: the peer itself has endorsed and ordered the transactions, and has seen
their signatures so; what is measured is from the last transaction of the block to its verdict.
*Signatures never seen*: transactions that were made in another process. The floor is what it takes
to verify two signatures. Not pinned, for signatures may be verified on several CPUs.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import trio
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from measure import CPU, YARDSTICK, Meter, Row, Samples, main
from served import serving
from services import Broadcasts, Network, Verdicts, client, endorsed
from wire import Wire

from peer import PeerConfig
from peer.channel import network
from peer.channel.network import NetworkDescription
from peer.ledger import open_ledger
from peer.ledger.api import ValidationCode
from peer.ledger.rwset import RwSetBuilder
from tests.unit.channel.networks import Scene
from tests.unit.validation.forging import CC, CHANNEL, Forged, World, definition, endorsed_by

BLOCK = 500
"""Transactions that an orderer puts into a block at most, as configured by default."""
ORGANISATIONS = ("Org1", "Org2")
POLICY = "OR('Org1MSP.peer', 'Org2MSP.peer')"
BATCH_TIMEOUT = "3s"
"""Longer than it takes to hand in a block's transactions, as a rule."""
ATTEMPTS = 4
"""How often to try for each sample."""
FLOOR = "two signatures, cryptography"
SEEN = f"a transaction of a block of {BLOCK}, from the embedded orderer"
UNSEEN = f"a transaction of a block of {BLOCK}, signatures never seen"
VALUE = bytes(100)


def rows(quick: bool) -> list[Row]:
    """Measure blocks in which the signatures are known, and blocks in which they are not."""
    samples, rounds = Samples(), 2 if quick else 5
    with tempfile.TemporaryDirectory() as directory:
        measure_served(samples, rounds, Path(directory))
    with tempfile.TemporaryDirectory() as directory:
        made = network.create(
            Path(directory, "net"), NetworkDescription(organisations=ORGANISATIONS)
        )
        with ProcessPoolExecutor(1, get_context("spawn")) as elsewhere:
            blocks = [
                elsewhere.submit(transactions, Path(directory, "net"), number).result()
                for number in range(rounds + 1)
            ]
        trio.run(measure_validator, samples, Scene(made), blocks, Path(directory))
    found = []
    for name in (SEEN, UNSEEN):
        found.append(samples.row(f"{name}: wall", "µs", to=FLOOR))
        found.append(samples.row(f"{name}: peer", CPU, to=FLOOR))
    return [*found, samples.row(FLOOR, CPU), samples.row(YARDSTICK, CPU)]


def measure_served(samples: Samples, rounds: int, directory: Path) -> None:
    """Take samples of a peer with an orderer that waits until a block is full.

    Raises:
        RuntimeError: it was tired of waiting again and again.
    """
    description = NetworkDescription(
        organisations=(PeerConfig().peer.local_msp_id,), msp_suffix="", batch_timeout=BATCH_TIMEOUT
    )
    network.create(directory / "network", description)
    with serving(directory, tls=False) as served, closing(Wire()) as wire:
        known = Network(served, tls=False)
        peers, [orderer] = known.peers(wire, 8), known.orderers(wire, 1)
        verdicts = Verdicts(peers[0])
        wire.run([verdicts.begin(known)])
        way = Broadcasts(known, peers[0], orderer, verdicts)
        taken = -1  # the first one is for the caches
        for _ in range(ATTEMPTS * rounds):
            updates = [known.propose("update", f"k{each:07}") for each in range(BLOCK)]
            *others, last = endorsed(known, wire, peers, updates)
            verdicts.told.clear()
            wire.run([client(way.hand_in, iter(others), [])])
            is_waiting = not verdicts.told
            meter = Meter(served.pid)
            wire.run([way.submit(last)])
            if not is_waiting:
                continue
            if taken >= 0:
                keep(samples, SEEN, meter)
            taken += 1
            if taken == rounds:
                return
    raise RuntimeError(f"no block of {BLOCK} was handed in within {BATCH_TIMEOUT}")


def transactions(directory: Path, number: int) -> list[bytes]:
    """Make a block's transactions, each of which reads a key and writes it."""
    scene, made = Scene(network.load(directory)), []
    for each in range(BLOCK):
        key, sets = f"k{number:03}{each:07}", RwSetBuilder()
        sets.add_read(CC, key, None)
        sets.add_write(CC, key, VALUE)
        made.append(Forged(signer=scene.user(), endorsers=[scene.peer()], results=sets).made())
    return made


async def measure_validator(
    samples: Samples, scene: Scene, blocks: Sequence[Sequence[bytes]], directory: Path
) -> None:
    """Take samples of a channel whose transactions come from elsewhere, and of the floor."""
    private = ec.generate_private_key(ec.SECP256R1())
    algorithm, key = ec.ECDSA(hashes.SHA256()), private.public_key()
    signature = private.sign(VALUE, algorithm)
    async with open_ledger(directory, CHANNEL) as ledger:
        await ledger.commit(scene.network.genesis_block(), [ValidationCode.VALID])
        world = World(scene, ledger)
        await world.define(CC, definition(endorsed_by(POLICY)))
        for number, envelopes in enumerate(blocks):
            block = world.block(*envelopes)
            meter = Meter(os.getpid())
            committed = await world.committer.commit_block(block)
            if set(committed.codes) != {ValidationCode.VALID}:
                raise RuntimeError(f"verdicts: {set(committed.codes)}")
            if number:
                keep(samples, UNSEEN, meter)
                samples.yardstick()
                meter = Meter(os.getpid())
                for _ in range(2 * BLOCK):
                    key.verify(signature, VALUE, algorithm)
                samples.add(FLOOR, meter.lap()[1] / BLOCK)
            world.writer.written(block)


def keep(samples: Samples, name: str, meter: Meter) -> None:
    wall, cpu = meter.lap()
    samples.add(f"{name}: wall", wall / BLOCK)
    samples.add(f"{name}: peer", cpu / BLOCK)


if __name__ == "__main__":
    main(rows)
