"""The two crossings from Trio into the engine client's asyncio.

Room:      runtimes.containers   (used by client)
Loop:      both; the peer holds the asyncio loop open (peer.rpc.loop)
Lifetime:  one call
Fabric:    none
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

import trio
from trio_asyncio import aio_as_trio

from runtimes.api import RuntimeUnavailable

P = ParamSpec("P")
T = TypeVar("T")

REQUEST_LIMIT_S = 30.0
"""How long an engine may take over one request that is not a wait or a build."""


async def follow(call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Await something that may last. Cancellation: cuts it."""
    result: T = await aio_as_trio(call)(*args, **kwargs)
    return result


async def request(call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Await one request to its end.

    Raises:
        RuntimeUnavailable: the engine takes longer than `REQUEST_LIMIT_S`.

    Cancellation: before the request or after it. An engine finishes what it has begun even when
    the caller has left, and whoever cleans up then would look too early.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    with trio.move_on_after(REQUEST_LIMIT_S, shield=True):
        return await follow(call, *args, **kwargs)
    raise RuntimeUnavailable(f"the engine does not answer within {REQUEST_LIMIT_S:g} s")
