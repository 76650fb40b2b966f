"""Send requests to CouchDB, again where that may help.

Room:      peer.couchdb   (imports peer.errors, httpx; used by documents)
Loop:      Trio
Lifetime:  peer
Fabric:    core/ledger/kvledger/txmgmt/statedb/statecouchdb/couchdb.go `handleRequest` (release-2.5)
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn
from urllib.parse import quote

import httpx
import trio

from peer.errors import DocumentsError, DocumentsUnavailable

log = logging.getLogger("peer.couchdb")

FIRST_PAUSE_S = 0.125
"""Before the second attempt; each pause is twice the one before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CouchSettings:
    """Where the server is, and how much patience it is met with.

    Attributes:
        address: host and port.
        username: empty for none.
        retries, startup_retries: attempts after the first one.
        request_timeout_s: of one attempt.
        page_size: keys one answer holds at most.
        batch_size: documents one request writes at most.
    """

    address: str
    username: str = ""
    password: str = ""
    retries: int = 3
    startup_retries: int = 10
    request_timeout_s: float = 35.0
    page_size: int = 1000
    batch_size: int = 1000

    def __repr__(self) -> str:
        return f"CouchSettings(address={self.address!r})"


class Answer(NamedTuple):
    """Status and decoded body; None where it is no JSON."""

    status: int
    body: Any


class CouchClient:
    """One server; opened with `open_client`."""

    def __init__(self, settings: CouchSettings, http: httpx.AsyncClient) -> None:
        self.settings = settings
        self._http = http

    async def request(
        self,
        method: str,
        *path: str,
        body: str = "",
        expect: tuple[int, ...] = (200, 201, 202),
        retries: int | None = None,
    ) -> Answer:
        """Send one request and return its answer.

        Args:
            path: parts of the path, which are escaped here.
            body: JSON.
            expect: statuses that are no error.
            retries: those of the settings if None.

        Raises:
            DocumentsUnavailable: no answer in time, or an error of the server itself, every time.
            DocumentsError: any other error; the text is that of Fabric's peer.

        Cancellation: the request may have been carried out.
        """
        attempts = 1 + (self.settings.retries if retries is None else retries)
        target = "/" + "/".join(quote(part, safe="") for part in path)
        pause_s, reason = FIRST_PAUSE_S, ""
        for attempt in range(attempts):
            if attempt:
                log.warning("%s %s: %s; trying again", method, target, reason)
                await trio.sleep(pause_s)
                pause_s *= 2
            try:
                answer = await self._send(method, target, body)
            except (httpx.TransportError, trio.TooSlowError) as exc:
                limit = f"no answer within {self.settings.request_timeout_s:g} s"
                reason = limit if isinstance(exc, trio.TooSlowError) else _told(exc)
                continue
            if answer.status < 500:
                break
            reason = _reason(answer)
        else:
            raise DocumentsUnavailable(self.settings.address, f"{reason}, {attempts} times")
        if answer.status not in expect:
            self.refuse(answer)
        return answer

    def refuse(self, answer: Answer) -> NoReturn:
        """Raise what an answer says is wrong."""
        raise DocumentsError(self.settings.address, _reason(answer))

    async def _send(self, method: str, target: str, body: str) -> Answer:
        content, headers = None, {"Accept": "application/json"}
        if body:
            content, headers["Content-Type"] = body.encode(), "application/json"
        with trio.fail_after(self.settings.request_timeout_s):
            response = await self._http.request(method, target, content=content, headers=headers)
        try:
            return Answer(response.status_code, json.loads(response.content))
        except (ValueError, RecursionError):
            return Answer(response.status_code, None)


@asynccontextmanager
async def open_client(settings: CouchSettings) -> AsyncIterator[CouchClient]:
    """Hold the connections to a server; none is made yet."""
    auth = httpx.BasicAuth(settings.username, settings.password) if settings.username else None
    async with httpx.AsyncClient(
        base_url=f"http://{settings.address}", auth=auth, timeout=None, follow_redirects=False
    ) as http:
        yield CouchClient(settings, http)


def _told(exc: Exception) -> str:
    return str(exc) or type(exc).__name__


def _reason(answer: Answer) -> str:
    """Return the sentence of Fabric's peer; its spaces are as they are there."""
    body = answer.body if isinstance(answer.body, dict) else {}
    return (
        f"error handling CouchDB request. Error:{body.get('error', '')},  "
        f"Status Code:{answer.status},  Reason:{body.get('reason', '')}"
    )
