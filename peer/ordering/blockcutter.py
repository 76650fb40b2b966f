"""Cut a stream of messages into batches.

Room:      peer.ordering   (used by solo)
Loop:      none
Lifetime:  channel
Fabric:    orderer/common/blockcutter/blockcutter.go (release-2.5)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

Batch = list[bytes]


class Message(NamedTuple):
    """A marshalled envelope and what it counts: the bytes of its payload and signature."""

    envelope: bytes
    size: int


class Limits(NamedTuple):
    """When a batch is full: by the number of messages, or by their bytes."""

    max_message_count: int
    preferred_max_bytes: int


@dataclass(slots=True)
class BlockCutter:
    """Collects messages; the time limit of a batch is its owner's to keep."""

    _pending: Batch = field(default_factory=list)
    _size: int = 0

    @property
    def is_pending(self) -> bool:
        """Something waits for its batch to fill."""
        return bool(self._pending)

    def ordered(self, message: Message, limits: Limits) -> list[Batch]:
        """Take a message and return the batches it completes: none, one or two."""
        envelope, size = message
        batches = []
        if self._size + size > limits.preferred_max_bytes:
            batches.append(self.cut())  # for one that is too large by itself, too
        self._pending.append(envelope)
        self._size += size
        if size > limits.preferred_max_bytes or len(self._pending) >= limits.max_message_count:
            batches.append(self.cut())
        return [batch for batch in batches if batch]

    def cut(self) -> Batch:
        """Return what is pending, which may be nothing, and begin anew."""
        batch, self._pending, self._size = self._pending, [], 0
        return batch
