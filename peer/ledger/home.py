"""Where a channel's ledger lives, and what its files are called.

Room:      peer.ledger   (used by everything that opens one)
Loop:      none
Lifetime:  none
Fabric:    common/configtx/validator.go `validateChannelID` (release-2.5)
"""

from __future__ import annotations

import re
from pathlib import Path

from peer.errors import LedgerError

# Fabric's rule, which also keeps a channel id a plain file name.
CHANNEL_ID = re.compile(r"[a-z][a-z0-9.-]{0,248}")
LOCK_NAME = "lock"
DATABASE = "ledger.sqlite"
PRIVATE = "private.sqlite"
BLOCKS = "blocks"


def ledger_home(directory: Path, channel_id: str) -> Path:
    """Return where a channel's ledger lives.

    Raises:
        LedgerError: this is no channel id.
    """
    if not CHANNEL_ID.fullmatch(channel_id):
        raise LedgerError(f"'{channel_id}' is not a channel id ({CHANNEL_ID.pattern})")
    return Path(directory) / channel_id
