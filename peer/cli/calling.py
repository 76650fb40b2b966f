"""What ``chaincode invoke`` and ``chaincode query`` do.

Room:      peer.cli
Loop:      starts Trio
Fabric:    internal/peer/chaincode/common.go `ChaincodeInvokeOrQuery` (release-2.5)
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import click

from fabric_protos.stream import ChaincodeInput
from peer.cli.flags import OrdererFlags, PeerFlags
from peer.cli.gotext import response_text
from peer.cli.session import Wording, open_session, run
from peer.client.calls import Result

log = logging.getLogger("peer.cli")

ERROR_THRESHOLD = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One call of a chaincode."""

    channel_id: str
    name: str
    payload: ChaincodeInput
    transient: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def read(
        cls, channel_id: str, name: str, constructor: str, transient: str, *, is_init: bool = False
    ) -> Invocation:
        """
        Raises:
            click.ClickException: the JSON of either is none.
        """
        return cls(
            channel_id=channel_id,
            name=name,
            payload=ChaincodeInput(args=read_constructor(constructor), is_init=is_init),
            transient=read_transient(transient),
        )


def read_constructor(text: str) -> list[bytes]:
    """Return the arguments of ``{"Args": […]}`` or ``{"Function": …, "Args": […]}``.

    Raises:
        click.ClickException: *text* is something else.
    """
    try:
        document = json.loads(text)
    except ValueError as exc:
        raise click.ClickException(f"chaincode argument error: {exc}") from exc
    if not isinstance(document, dict):
        raise click.ClickException("chaincode argument error: expected a JSON object")
    given = {key.lower(): value for key, value in document.items()}
    args = given.get("args") or []
    if isinstance(args, list) and "function" in given:
        args = [given["function"], *args]
    if not isinstance(args, list) or not all(isinstance(each, str) for each in args):
        raise click.ClickException('chaincode argument error: "Args" must be a list of strings')
    if not given.keys() <= {"args", "function"} or (document and "args" not in given):
        raise click.ClickException(
            "Non-empty JSON chaincode parameters must contain the following keys: "
            "'Args' or 'Function' and 'Args'"
        )
    return [each.encode() for each in args]


def read_transient(text: str) -> dict[str, bytes]:
    """Return the entries of a JSON object of names and Base64 values; of no text, none.

    Raises:
        click.ClickException: *text* is something else.
    """
    if not text:
        return {}
    try:
        document = json.loads(text)
        return {key: base64.b64decode(value, validate=True) for key, value in document.items()}
    except (AttributeError, TypeError, ValueError) as exc:
        raise click.ClickException(f"error parsing transient string: {exc}") from exc


def invoke(call: Invocation, peers: PeerFlags, orderer: OrdererFlags, wait_s: float | None) -> None:
    """Let peers endorse a call and send it to be ordered; the log tells the result.

    Raises:
        click.ClickException: it failed, with Fabric's words.
    """
    result = run(_invoke, call, peers, orderer, wait_s)
    _check(result, "invoke")
    told = response_text(result.status, result.message, result.payload)
    log.info("Chaincode invoke successful. result: %s", told)


def query(call: Invocation, peers: PeerFlags) -> bytes:
    """Return what a call gives on one peer.

    Raises:
        click.ClickException: it failed, with Fabric's words.
    """
    result = run(_query, call, peers)
    _check(result, "query")
    return bytes(result.payload)


async def _invoke(
    call: Invocation, peers: PeerFlags, orderer: OrdererFlags, wait_s: float | None
) -> Result:
    wording = _wording("invoke")
    async with open_session(wording, peers, channel_id=call.channel_id, several=True) as session:
        ordering = await session.connect_orderer(orderer, call.channel_id)
        return await session.submit(
            call.channel_id, call.name, call.payload, call.transient, ordering, wait_s
        )


async def _query(call: Invocation, peers: PeerFlags) -> Result:
    async with open_session(_wording("query"), peers, channel_id=call.channel_id) as session:
        return await session.evaluate(call.channel_id, call.name, call.payload, call.transient)


def _wording(verb: str) -> Wording:
    return Wording(
        verb=verb,
        endorser_client=f"error getting endorser client for {verb}",
        endorsing=f"error endorsing {verb}",
        endorsed=" - proposal response: <nil>",
    )


def _check(result: Result, verb: str) -> None:
    if result.status >= ERROR_THRESHOLD:
        told = response_text(result.status, result.message, result.payload)
        raise click.ClickException(f"endorsement failure during {verb}. response: {told}")
