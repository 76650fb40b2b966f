"""What a scripted case sees of a peer, and what a case is.

Room:      tests.integration   (imports pytest; no peer, no chaincode library)
Loop:      any
Lifetime:  one case
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol


class NoResponse(Exception):
    """The execution ended without a response of the chaincode: ERROR, timeout, broken stream."""


class Result(NamedTuple):
    """What one execution gave the client."""

    status: int
    message: str
    payload: bytes
    event: tuple[str, bytes] | None
    tx_id: str


class Driver(Protocol):
    """A client of some peer. Every method raises `NoResponse` for want of a result."""

    async def invoke(
        self,
        channel: str,
        chaincode: str,
        args: Sequence[bytes],
        *,
        transient: Mapping[str, bytes] | None = None,
        is_init: bool = False,
    ) -> Result:
        """Execute, and return once the writes are committed, if there are any to commit."""
        ...

    async def query(
        self,
        channel: str,
        chaincode: str,
        args: Sequence[bytes],
        *,
        transient: Mapping[str, bytes] | None = None,
    ) -> Result:
        """Execute and commit nothing."""
        ...

    async def invoke_all(
        self, channel: str, chaincode: str, calls: Sequence[Sequence[bytes]]
    ) -> list[Result]:
        """Execute `calls` at the same time; results in the order of the calls."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where a case runs.

    Attributes:
        chaincode: the chaincode under test, on `channel`.
        callee: the same code under another name, on `channel` and `other_channel`. It must be
            another process: one stream runs a transaction only once per channel.
        uninitialised: the same code on `channel`, defined with init required and not initialised.
        collection: private data collection of `chaincode`.
        creator: the client's marshalled `SerializedIdentity`.
    """

    driver: Driver
    channel: str
    other_channel: str
    chaincode: str
    callee: str
    uninitialised: str
    collection: str
    creator: bytes

    async def invoke(self, *args: str | bytes, **options: Mapping[str, bytes]) -> Result:
        """Invoke the chaincode under test."""
        return await self.driver.invoke(self.channel, self.chaincode, encoded(*args), **options)

    async def query(self, *args: str | bytes, **options: Mapping[str, bytes]) -> Result:
        """Query the chaincode under test."""
        return await self.driver.query(self.channel, self.chaincode, encoded(*args), **options)

    async def submit(self, *args: str | bytes) -> bytes:
        """Invoke and insist on success."""
        return payload(await self.invoke(*args))

    async def evaluate(self, *args: str | bytes) -> bytes:
        """Query and insist on success."""
        return payload(await self.query(*args))


def encoded(*args: str | bytes) -> list[bytes]:
    return [arg.encode() if isinstance(arg, str) else arg for arg in args]


def payload(result: Result) -> bytes:
    assert (result.status, result.message) == (200, "")
    return result.payload


def refused(result: Result, status: int = 500) -> str:
    assert (result.status, result.payload) == (status, b"")
    return result.message


@dataclass(frozen=True, slots=True)
class Case:
    """One behaviour.

    Attributes:
        only: libraries it is about; None for all.
        faults: libraries known to get it wrong → why.
    """

    run: Callable[[Site], Awaitable[None]]
    only: frozenset[str] | None = None
    faults: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.run.__name__
