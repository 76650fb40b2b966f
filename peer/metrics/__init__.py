"""What the peer counts and times.

Room:      peer.metrics   (imports peer.errors; made by assembly, each room counts in its own
           group)
Loop:      Trio
Lifetime:  peer
"""

from peer.metrics.meters import CONTENT_TYPE as CONTENT_TYPE
from peer.metrics.meters import Counter as Counter
from peer.metrics.meters import Registry as Registry
from peer.metrics.rooms import ChaincodeMeters as ChaincodeMeters
from peer.metrics.rooms import DeliverMeters as DeliverMeters
from peer.metrics.rooms import EndorserMeters as EndorserMeters
from peer.metrics.rooms import GrpcMeters as GrpcMeters
from peer.metrics.rooms import LedgerMeters as LedgerMeters
from peer.metrics.rooms import Metrics as Metrics
from peer.metrics.rooms import flag as flag
