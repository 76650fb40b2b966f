"""What can be done with a ledger that nobody has open.

Room:      peer.ledger   (re-exported by the package; used by cli and audit)
Loop:      none; everything blocks, so it runs in a worker thread
Lifetime:  none
Fabric:    core/ledger/kvledger/{rebuild_dbs,reset,rollback}.go (release-2.5)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from peer.ledger.api import Version
from peer.ledger.database import open_reader, translated
from peer.ledger.recovery import DATABASE
from peer.ledger.store import StateRow

PUBLIC_STATE = """
    SELECT namespace, key, value, metadata, block, tx FROM state
    WHERE instr(namespace, '$$p') = 0 ORDER BY namespace, key
"""


def public_state(directory: Path, channel_id: str) -> Iterator[StateRow]:
    """Yield the state every peer of a channel has, by namespace and key.

    That is all but private values; their hashes are in namespaces of their own.

    Raises:
        LedgerStorageError: it cannot be read.
    """
    path = directory / channel_id / DATABASE
    with translated(path), closing(open_reader(path)) as reader:
        for namespace, key, value, metadata, block, tx in reader.execute(PUBLIC_STATE):
            yield StateRow(namespace, key, value, metadata, Version(block, tx))
