"""Ledgers in one directory, with snapshots generated beside them.

Room:      tests.unit.ledger
Loop:      Trio
Lifetime:  one test
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from fabric_protos.codec import encode
from fabric_protos.common import Block, BlockData, BlockHeader, Envelope, Header, Payload
from fabric_protos.stream import ChannelHeader, HeaderType, SignatureHeader
from peer.ledger import open_ledger, staged_ledger
from peer.ledger.api import Ledger, ValidationCode
from peer.ledger.blocks import data_hash

SOON_S = 30


@asynccontextmanager
async def running(directory: Path, channel_id: str = "ch", **options: Any) -> AsyncIterator[Ledger]:
    """Open a ledger that generates snapshots in a directory of its own."""
    async with (
        open_ledger(directory, channel_id, snapshots=root_of(directory), **options) as ledger,
        trio.open_nursery() as generating,
    ):
        generating.start_soon(ledger.snapshots.run)
        with trio.fail_after(SOON_S):
            yield ledger
        generating.cancel_scope.cancel()


def root_of(directory: Path) -> Path:
    """Return where the snapshots of the ledgers in a directory are."""
    return directory.with_name(f"{directory.name}-snapshots")


def place_of(directory: Path, number: int, channel_id: str = "ch") -> Path:
    """Return where the snapshot at a block is."""
    return root_of(directory) / "completed" / channel_id / str(number)


async def snapshot(ledger: Ledger, directory: Path, channel_id: str = "ch") -> Path:
    """Generate a snapshot at the last block and return where it is."""
    await ledger.snapshots.submit(0)
    await generated(ledger)
    return place_of(directory, ledger.height - 1, channel_id)


async def generated(ledger: Ledger) -> None:
    """Return once nothing is asked for up to the last block."""
    while any(number < ledger.height for number in ledger.snapshots.pending()):
        await trio.lowlevel.checkpoint()


async def take_in(directory: Path, place: Path) -> str:
    """Make a ledger of a snapshot and return its channel."""
    async with staged_ledger(directory, place) as staged:
        await staged.publish()
        return staged.channel_id


async def configured(ledger: Ledger) -> None:
    """Commit a first block with a configuration, or what stands for one."""
    header = Header(
        channel_header=ChannelHeader(type=HeaderType.CONFIG).encode(),
        signature_header=SignatureHeader(creator=b"creator", nonce=b"nonce").encode(),
    )
    payload = encode(Payload(header=header, data=b"config"))
    envelope = encode(Envelope(payload=payload, signature=b"signature"))
    data = BlockData(data=[envelope])
    block = Block(header=BlockHeader(number=0, data_hash=data_hash(data)), data=data)
    await ledger.commit(block, [ValidationCode.VALID])
