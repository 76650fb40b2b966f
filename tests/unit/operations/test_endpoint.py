"""What each path answers: status, body, and who may ask."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator

import pytest
import trio

from peer import logs
from peer.metrics import CONTENT_TYPE, Registry
from peer.operations.endpoint import CHECKS_S, Check, Endpoint
from peer.operations.messages import Answer, Request


@pytest.fixture(autouse=True)
def _leave_log_levels_as_they_were() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in logs.OURS]
    levels = [logger.level for logger in loggers]
    yield
    logs.activate("")
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def endpoint(
    *, metrics: Registry | None = None, is_guarded: bool = False, **checks: Check
) -> Endpoint:
    return Endpoint(version="1.2.3", metrics=metrics, checks=checks, is_guarded=is_guarded)


async def ask(
    asked: Endpoint,
    path: str,
    method: str = "GET",
    body: bytes = b"",
    *,
    is_authenticated: bool = False,
) -> Answer:
    return await asked.respond(Request(method, path, body, is_authenticated))


async def well() -> None:
    await trio.lowlevel.checkpoint()


async def ill() -> None:
    raise RuntimeError('no "engine"')


async def silent() -> None:
    await trio.sleep_forever()


# Health


async def test_everything_is_well() -> None:
    answer = await ask(endpoint(docker=well, ordering=well), "/healthz")
    assert (answer.status, answer.content_type) == (200, "application/json")
    told = json.loads(answer.body)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", told.pop("time"))
    assert told == {"status": "OK"}


async def test_what_is_ill_is_told_with_its_reason() -> None:
    answer = await ask(endpoint(podman=ill, ordering=well, docker=ill), "/healthz")
    assert answer.status == 503
    told = json.loads(answer.body)
    del told["time"]
    reason = 'no "engine"'
    assert told == {
        "status": "Service Unavailable",
        "failed_checks": [
            {"component": "docker", "reason": reason},
            {"component": "podman", "reason": reason},
        ],
    }


async def test_checks_run_at_once_and_not_for_ever(autojump_clock: object) -> None:
    async def slow() -> None:
        await trio.sleep(CHECKS_S - 1)

    began = trio.current_time()
    assert (await ask(endpoint(a=slow, b=slow, c=well), "/healthz")).status == 200
    assert trio.current_time() - began == CHECKS_S - 1
    answer = await ask(endpoint(a=silent, b=well), "/healthz")
    assert (answer.status, answer.body) == (408, b"")
    assert trio.current_time() - began == 2 * CHECKS_S - 1


async def test_health_is_only_to_be_got() -> None:
    answer = await ask(endpoint(docker=ill), "/healthz", "POST")
    assert (answer.status, answer.body) == (405, b"")


# Version


async def test_version() -> None:
    assert (await ask(endpoint(), "/version")).body == b'{"Version":"1.2.3"}'
    refused = await ask(endpoint(), "/version", "PUT")
    assert (refused.status, refused.body) == (400, b'{"Error":"invalid request method: PUT"}')


# Log levels


async def test_log_levels_are_told_and_changed() -> None:
    asked = endpoint()
    assert (await ask(asked, "/logspec")).body == b'{"spec":"info"}'
    wanted = b'{"spec": "peer.rpc,peer.ledger=DEBUG:warning"}'
    changed = await ask(asked, "/logspec", "PUT", wanted)
    assert (changed.status, changed.body) == (204, b"")
    told = json.loads((await ask(asked, "/logspec")).body)
    assert told == {"spec": "peer.ledger=debug:peer.rpc=debug:warn"}
    assert logging.getLogger("peer.ledger").isEnabledFor(logging.DEBUG)
    assert not logging.getLogger("peer.chaincode").isEnabledFor(logging.INFO)


@pytest.mark.parametrize("body", [b'{"spec":""}', b"{}", b'{"other":1}'])
async def test_an_empty_specification_is_the_default(body: bytes) -> None:
    logs.activate("debug")
    assert (await ask(endpoint(), "/logspec", "PUT", body)).status == 204
    assert str(logs.active()) == "info"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"spec":"loud"}', "invalid logging specification 'loud': bad segment 'loud'"),
        (b'{"spec":"a..b=info"}', "bad logger name 'a..b'"),
        (b'{"spec":7}', 'expected {"spec": "…"}'),
        (b'{"spec":null}', 'expected {"spec": "…"}'),
        (b'"info"', 'expected {"spec": "…"}'),
        (b"", "Expecting value"),
        (b"\xff", "codec can't decode"),
        (b"[" * 60_000, "nested too deeply"),
    ],
)
async def test_a_bad_specification_is_refused_and_changes_nothing(body: bytes, error: str) -> None:
    logs.activate("warning")
    answer = await ask(endpoint(), "/logspec", "PUT", body)
    assert answer.status == 400
    assert error in json.loads(answer.body)["error"]
    assert str(logs.active()) == "warn"


async def test_log_levels_are_to_be_got_and_put() -> None:
    answer = await ask(endpoint(), "/logspec", "DELETE")
    assert (answer.status, answer.body) == (400, b'{"error":"invalid request method: DELETE"}')


# Metrics, and who may see what


async def test_metrics_are_there_if_they_are_to_be_shown() -> None:
    registry = Registry()
    registry.counter("proposals", "Proposals").inc()
    shown = await ask(endpoint(metrics=registry), "/metrics")
    assert (shown.status, shown.content_type) == (200, CONTENT_TYPE)
    assert shown.body.decode() == registry.text()
    assert (await ask(endpoint(metrics=registry), "/metrics", "POST")).status == 405
    assert (await ask(endpoint(), "/metrics")).status == 404


@pytest.mark.parametrize(("path", "free"), [("/healthz", 200), ("/version", 200)])
async def test_what_everybody_may_ask(path: str, free: int) -> None:
    assert (await ask(endpoint(is_guarded=True), path)).status == free


@pytest.mark.parametrize("path", ["/metrics", "/logspec"])
@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_what_only_those_with_a_certificate_may(path: str, method: str) -> None:
    asked = endpoint(metrics=Registry(), is_guarded=True)
    refused = await ask(asked, path, method, b'{"spec":"debug"}')
    assert (refused.status, refused.body) == (401, b"")
    assert str(logs.active()) == "info"
    assert (await ask(asked, path, is_authenticated=True)).status == 200


@pytest.mark.parametrize("path", ["/", "/Healthz", "/healthz/", "/metrics.json", "*"])
async def test_other_paths_are_not_found(path: str) -> None:
    answer = await ask(endpoint(metrics=Registry()), path)
    assert (answer.status, answer.body) == (404, b"404 page not found\n")
