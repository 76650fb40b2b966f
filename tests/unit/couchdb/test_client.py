"""How often a request is sent, how long it is waited for, and what is said of it."""

from __future__ import annotations

import base64

import httpx
import pytest
import trio
import trio.testing

from peer.couchdb.client import CouchClient, CouchSettings, open_client
from peer.errors import DocumentsError, DocumentsUnavailable

SETTINGS = CouchSettings(address="couch:5984", request_timeout_s=10.0)


class Scripted(httpx.AsyncBaseTransport):
    """Answers with one thing after the other: a status, or an error to raise; None is never.

    Attributes:
        asked: when each request came.
    """

    def __init__(self, *script: int | Exception | None) -> None:
        self._script = list(script)
        self.asked: list[float] = []
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(trio.current_time())
        self.requests.append(request)
        match self._script.pop(0):
            case None:
                await trio.sleep_forever()
                raise AssertionError
            case Exception() as exc:
                raise exc
            case status:
                body = {"error": "bad", "reason": "so"} if status != 204 else None
                return httpx.Response(status, json=body)


def client(transport: Scripted, settings: CouchSettings = SETTINGS) -> CouchClient:
    http = httpx.AsyncClient(transport=transport, base_url=f"http://{settings.address}")
    return CouchClient(settings, http)


async def test_what_may_pass_is_tried_again(autojump_clock: trio.testing.MockClock) -> None:
    transport = Scripted(503, None, httpx.ConnectError("refused"), 200)
    began = trio.current_time()
    answer = await client(transport).request("GET", "db")
    assert answer.status == 200
    assert [round(at - began, 3) for at in transport.asked] == [0.0, 0.125, 10.375, 10.875]


@pytest.mark.parametrize(
    ("last", "text"),
    [
        (None, "no answer within 10 s, 4 times"),
        (httpx.ReadError(""), "ReadError, 4 times"),
        (
            500,
            "error handling CouchDB request. Error:bad,  Status Code:500,  Reason:so, 4 times",
        ),
    ],
)
async def test_in_the_end_it_is_given_up(
    autojump_clock: trio.testing.MockClock, last: int | Exception | None, text: str
) -> None:
    transport = Scripted(503, 503, 503, last)
    with pytest.raises(DocumentsUnavailable) as caught:
        await client(transport).request("GET", "db")
    assert str(caught.value) == f"CouchDB at couch:5984 is not available: {text}"
    assert (caught.value.address, len(transport.asked)) == ("couch:5984", 4)


async def test_how_often_can_be_chosen(autojump_clock: trio.testing.MockClock) -> None:
    for retries in (0, 2):
        transport = Scripted(*[500] * 9)
        with pytest.raises(DocumentsUnavailable):
            await client(transport).request("GET", "db", retries=retries)
        assert len(transport.asked) == retries + 1


@pytest.mark.parametrize("status", [400, 401, 404, 409, 301])
async def test_a_refusal_is_final(status: int) -> None:
    transport = Scripted(status)
    with pytest.raises(DocumentsError) as caught:
        await client(transport).request("GET", "db")
    assert type(caught.value) is DocumentsError
    assert str(caught.value) == (
        f"error handling CouchDB request. Error:bad,  Status Code:{status},  Reason:so"
    )
    transport = Scripted(status)
    assert (await client(transport).request("GET", "db", expect=(status,))).status == status


async def test_an_answer_that_is_no_json() -> None:
    assert (await client(Scripted(204)).request("GET", "db", expect=(204,))).body is None


async def test_parts_of_a_path_are_escaped_and_bodies_are_json() -> None:
    transport = Scripted(200, 200)
    await client(transport).request("POST", "my$db(1)", "_x/y", body='{"a":1}')
    await client(transport).request("GET", "")
    posted, root = transport.requests
    assert posted.url.raw_path == b"/my%24db%281%29/_x%2Fy"
    assert posted.headers["Content-Type"] == "application/json"
    assert posted.content == b'{"a":1}'
    assert root.url.raw_path == b"/"


async def test_a_user_is_named_to_the_server_and_to_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = CouchSettings(address="couch:5984", username="admin", password="secret-word")
    assert "secret-word" not in repr(settings)
    transport = Scripted(200)
    made = httpx.AsyncClient.__init__

    def with_transport(self: httpx.AsyncClient, **given: object) -> None:
        made(self, **given, transport=transport)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(httpx.AsyncClient, "__init__", with_transport)
    async with open_client(settings) as opened:
        await opened.request("GET", "")
    expected = base64.b64encode(b"admin:secret-word").decode()
    assert transport.requests[0].headers["Authorization"] == f"Basic {expected}"
