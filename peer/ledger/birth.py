"""Remember what a ledger began with, where that is a snapshot.

Room:      peer.ledger   (used by joining, recovery and offline)
Loop:      none; runs in a worker thread
Lifetime:  written once, as long as the ledger
Fabric:    common/ledger/blkstorage/snapshot_info.go (release-2.5)
"""

from __future__ import annotations

import json
from pathlib import Path

from peer.errors import LedgerCorrupt, LedgerStorageError
from peer.ledger import durable
from peer.ledger.commit import Tip

BIRTH = "snapshot.json"
"""File in the home of a ledger that began with a snapshot: what the next block must know."""


def write_birth(home: Path, birth: Tip) -> None:
    """Note the last block of the snapshot.

    Raises:
        OSError: it cannot be written.
    """
    fields = {
        "last_block_number": birth.number,
        "last_block_hash": birth.hash.hex(),
        "previous_block_hash": birth.previous_hash.hex(),
        "last_block_commit_hash": birth.commit_hash.hex(),
    }
    with (home / BIRTH).open("x", encoding="utf-8") as file:
        json.dump(fields, file, indent=4)
        file.flush()
        durable.sync(file.fileno())


def read_birth(home: Path) -> Tip | None:
    """Return the last block of the snapshot; None where the ledger began with block 0.

    Raises:
        LedgerStorageError: it cannot be read.
    """
    path = home / BIRTH
    try:
        fields = json.loads(path.read_bytes())
        return Tip(
            fields["last_block_number"],
            bytes.fromhex(fields["last_block_hash"]),
            bytes.fromhex(fields["previous_block_hash"]),
            bytes.fromhex(fields["last_block_commit_hash"]),
        )
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise LedgerStorageError(str(path), str(exc)) from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise LedgerCorrupt(str(path), f"it does not tell the last block: {exc}") from exc
