"""One channel this peer has joined.

Room:      peer.channel   (imports peer.ledger.api; used by everything that works on a channel)
Loop:      none
Lifetime:  as long as the peer is joined
Fabric:    core/peer/channel.go (release-2.5)
"""

from __future__ import annotations

from peer.channel.bundle import Bundle
from peer.ledger.api import Ledger


class Channel:
    """A ledger, and the configuration its last block left it with.

    Attributes:
        bundle: the configuration at this moment; the committer replaces it after each
            configuration block, so ask for it at every use.
    """

    def __init__(self, ledger: Ledger, bundle: Bundle) -> None:
        self.ledger = ledger
        self.bundle = bundle

    @property
    def channel_id(self) -> str:
        """Its name."""
        return self.bundle.channel_id

    @property
    def has_new_lifecycle(self) -> bool:
        """Chaincodes are defined through ``_lifecycle``; without it through ``lscc``."""
        application = self.bundle.application
        return application is not None and "V2_0" in application.capabilities
