"""What the operations endpoint answers.

Room:      peer.operations   (imports config, logs, metrics; opened by assembly)
Loop:      Trio
Lifetime:  peer
Fabric:    core/operations/{system,version}.go, core/middleware/require_cert.go,
           common/flogging/httpadmin/spec.go (release-2.5), healthz/checker.go (fabric-lib-go)
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus

import trio

from peer import logs
from peer.config import PeerConfig
from peer.config.values import split_address
from peer.errors import ConfigError
from peer.metrics import CONTENT_TYPE, Registry
from peer.operations.messages import Answer, Request
from peer.operations.tls import server_context
from peer.version import VERSION

log = logging.getLogger("peer.operations")

CHECKS_S = 30.0
"""For all checks of one question; Fabric's."""

Check = Callable[[], Awaitable[None]]
"""Returns if a component is well and raises if not; the text is shown."""


@asynccontextmanager
async def open_operations(
    config: PeerConfig, *, metrics: Registry, checks: Mapping[str, Check]
) -> AsyncIterator[str]:
    """Open the endpoint if one is configured, and yield its address, else an empty text.

    Args:
        checks: what ``/healthz`` looks at, by component.

    Raises:
        ConfigError: the address cannot be listened on, or TLS files cannot be used.

    Cancellation: as of `open_http`.
    """
    operations = config.operations
    if config.metrics.provider == "statsd":
        log.warning("metrics.provider statsd is not supported: metrics are not sent")
    if not operations.listen_address:
        yield ""
        return
    from peer.operations.http import open_http  # h11 is for who listens

    endpoint = Endpoint(
        version=VERSION,
        metrics=metrics if config.metrics.provider == "prometheus" else None,
        checks=checks,
        is_guarded=operations.tls_enabled,
    )
    tls = server_context(operations) if operations.tls_enabled else None
    host, port = split_address(operations.listen_address)
    async with AsyncExitStack() as stack:
        try:
            address = await stack.enter_async_context(
                open_http(endpoint.respond, host=host, port=port, tls=tls)
            )
        except OSError as exc:
            problem = f"operations.listenAddress {host}:{port}: {exc.strerror or exc}"
            raise ConfigError([problem]) from exc
        log.info("operations endpoint at %s", address)
        yield address


class Endpoint:
    """Answers requests; `respond` is for `open_http`.

    Args:
        version: of this program.
        metrics: what ``/metrics`` shows; None where they are not to be shown.
        checks: what ``/healthz`` looks at, by component.
        is_guarded: metrics and log levels are for clients with a certificate, as with TLS.
    """

    def __init__(
        self,
        *,
        version: str,
        metrics: Registry | None,
        checks: Mapping[str, Check],
        is_guarded: bool = False,
    ) -> None:
        self._version = version
        self._metrics = metrics
        self._checks = checks
        self._is_guarded = is_guarded

    async def respond(self, request: Request) -> Answer:
        """Answer a request."""
        match request.path:
            case "/healthz":
                return await self._health(request)
            case "/version":
                return self._tell_version(request)
            case "/logspec" | "/metrics" if self._is_guarded and not request.is_authenticated:
                return Answer(HTTPStatus.UNAUTHORIZED)
            case "/logspec":
                return _log_specification(request)
            case "/metrics" if self._metrics is not None:
                return _shown(self._metrics, request)
            case _:
                return Answer(HTTPStatus.NOT_FOUND, b"404 page not found\n")

    async def _health(self, request: Request) -> Answer:
        if request.method != "GET":
            return Answer(HTTPStatus.METHOD_NOT_ALLOWED)
        failed: dict[str, str] = {}
        with trio.move_on_after(CHECKS_S) as limit:
            async with trio.open_nursery() as checks:
                for component, check in self._checks.items():
                    checks.start_soon(_run, component, check, failed)
        if limit.cancelled_caught:
            return Answer(HTTPStatus.REQUEST_TIMEOUT)
        told: dict[str, object] = {"status": "OK", "time": _now()}
        if failed:
            told["status"] = "Service Unavailable"
            told["failed_checks"] = [
                {"component": component, "reason": reason}
                for component, reason in sorted(failed.items())
            ]
        return _json(HTTPStatus.SERVICE_UNAVAILABLE if failed else HTTPStatus.OK, told)

    def _tell_version(self, request: Request) -> Answer:
        if request.method != "GET":
            return _json(HTTPStatus.BAD_REQUEST, {"Error": _invalid_method(request)})
        return _json(HTTPStatus.OK, {"Version": self._version})


async def _run(component: str, check: Check, failed: dict[str, str]) -> None:
    try:
        await check()
    except Exception as exc:
        failed[component] = str(exc)


def _log_specification(request: Request) -> Answer:
    match request.method:
        case "GET":
            return _json(HTTPStatus.OK, {"spec": str(logs.active())})
        case "PUT":
            try:
                logs.activate(_wanted(request.body))
            except ValueError as exc:
                return _json(HTTPStatus.BAD_REQUEST, {"error": str(exc)})
            log.info("log levels are now %s", logs.active())
            return Answer(HTTPStatus.NO_CONTENT)
        case _:
            return _json(HTTPStatus.BAD_REQUEST, {"error": _invalid_method(request)})


def _wanted(body: bytes) -> str:
    """Return the specification of a request; without one it is the default's, empty."""
    try:
        wanted = json.loads(body)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    spec = wanted.get("spec", "") if isinstance(wanted, dict) else None
    if not isinstance(spec, str):
        raise ValueError('expected {"spec": "…"}')
    return spec


def _shown(metrics: Registry, request: Request) -> Answer:
    if request.method not in ("GET", "HEAD"):
        return Answer(HTTPStatus.METHOD_NOT_ALLOWED)
    return Answer(HTTPStatus.OK, metrics.text().encode(), CONTENT_TYPE)


def _invalid_method(request: Request) -> str:
    return f"invalid request method: {request.method}"


def _json(status: HTTPStatus, told: Mapping[str, object]) -> Answer:
    body = json.dumps(told, separators=(",", ":"), ensure_ascii=False)
    return Answer(status, body.encode(), "application/json")


def _now() -> str:
    """Return the time as Go's RFC3339Nano has it."""
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    fraction = f".{nanoseconds:09d}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + fraction + "Z"
