"""The loop of whoever writes chaincode: edit, restart, call, look.

Room:      peer.dev   (imports library and what is below it; used by cli)
Loop:      Trio
Lifetime:  a session on an open peer
"""

from peer.dev.narration import Kind as Kind
from peer.dev.narration import Line as Line
from peer.dev.narration import Narration as Narration
from peer.dev.session import MAX_STATE as MAX_STATE
from peer.dev.session import Project as Project
from peer.dev.session import Session as Session
from peer.dev.session import name_for as name_for
from peer.dev.session import reason as reason

__all__ = ["MAX_STATE", "Kind", "Line", "Narration", "Project", "Session", "name_for", "reason"]
