"""Import much at once.

Room:      peer.importing   (used by app and cli)
Loop:      none
Lifetime:  one import
Fabric:    none
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Let the garbage collector rest: it would look again and again at modules, which stay."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
