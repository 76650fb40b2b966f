"""What ``chaincode package``, ``install``, ``instantiate``, ``upgrade`` and ``list`` do.

Room:      peer.cli
Loop:      starts Trio
Fabric:    internal/peer/chaincode/{package,signpackage,install,instantiate,upgrade,list}.go
           (release-2.5)
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

from fabric_protos.codec import decode, encode
from fabric_protos.protos import ChaincodeInfo, ChaincodeQueryResponse
from fabric_protos.stream import ChaincodeInput
from peer.cli.calling import ERROR_THRESHOLD, read_constructor
from peer.cli.files import collections_of, read_file, write_file
from peer.cli.flags import OrdererFlags, PeerFlags
from peer.cli.gotext import response_text
from peer.cli.session import Wording, load_config, load_identity, open_session, run
from peer.client.calls import Result
from peer.client.deployments import WantedDeployment, deployment_args
from peer.errors import PackageError
from peer.lifecycle import owners
from peer.lifecycle.legacy import describe_deployment, pack_deployment, spec_type
from peer.lifecycle.state import LSCC
from peer.msp import standard
from peer.msp.dsl import parse_policy

log = logging.getLogger("peer.cli")


class Owned(NamedTuple):
    """How a package for owners begins: signed by this one or not, and who may instantiate it."""

    sign: bool
    policy: str


class Deployment(NamedTuple):
    """The flags of an instantiation."""

    channel_id: str
    name: str
    constructor: str
    version: str
    language: str
    policy: str
    escc: str
    vscc: str
    collections: str


def pack(source: Path, language: str, name: str, version: str) -> bytes:
    """Return a deployment spec of a directory.

    Raises:
        PackageError: it cannot be one.
    """
    try:
        return pack_deployment(source, language.lower(), name, version)
    except OSError as exc:
        raise PackageError(f"error getting chaincode code {name}: {exc}") from exc


def package(
    output: Path, source: Path, language: str, name: str, version: str, owned: Owned | None
) -> None:
    """Write a deployment spec of a directory, plain or for owners to sign."""
    data = pack(source, language, name, version)
    if owned is not None:
        identity = load_identity(load_config())
        policy = standard.signed_by_any(standard.Role.ADMIN, [identity.msp_id])
        if owned.policy:
            policy = parse_policy(owned.policy)
        data = owners.owned_package(data, encode(policy), identity if owned.sign else None)
    write_file(output, data)


def sign_package(source: Path, output: Path) -> None:
    """Add an owner's signature to a package."""
    identity = load_identity(load_config())
    write_file(output, owners.sign_package(read_file(source, "could not read"), identity))
    click.echo(f"Wrote signed package to {output} successfully")


def read_package(source: Path, name: str, version: str) -> bytes:
    """Return a deployment spec from a file.

    Raises:
        click.ClickException: it is another chaincode's than the flags say.
        PackageError: it is none.
    """
    data = read_file(source, "error reading chaincode package")
    found = describe_deployment(data)
    for what, given, is_so in (("name", name, found.name), ("version", version, found.version)):
        if given not in ("", is_so):
            raise click.ClickException(f"{what} in package {is_so} does not match {given}")
    return data


def install(data: bytes, peers: PeerFlags) -> None:
    """Install a deployment spec on a peer."""
    result = run(_install, data, peers)
    if result.status >= ERROR_THRESHOLD:
        raise click.ClickException(
            f"install failed with status: {result.status} - {result.message}"
        )
    told = response_text(result.status, result.message, result.payload)
    log.info("Installed remotely: response:<%s >", told)


async def _install(data: bytes, peers: PeerFlags) -> Result:
    async with open_session(_wording("install"), peers) as session:
        return await session.ask("", LSCC, b"install", data)


def deploy(function: str, deployment: Deployment, peers: PeerFlags, orderer: OrdererFlags) -> None:
    """Deploy an installed spec on a channel: ``deploy`` or ``upgrade``."""
    wanted = WantedDeployment(
        name=deployment.name,
        version=deployment.version,
        type=spec_type(deployment.language.lower()),
        args=read_constructor(deployment.constructor),
        policy=parse_policy(deployment.policy) if deployment.policy else None,
        collections=collections_of(deployment.collections),
        endorsement_plugin=deployment.escc,
        validation_plugin=deployment.vscc,
    )
    verb = "instantiate" if function == "deploy" else function
    result = run(_deploy, verb, deployment.channel_id, function, wanted, peers, orderer)
    if result.status >= ERROR_THRESHOLD:
        told = response_text(result.status, result.message, result.payload)
        raise click.ClickException(
            "could not assemble transaction, err proposal response was not successful, "
            f"error code {result.status}, msg {result.message or told}"
        )


async def _deploy(
    verb: str,
    channel_id: str,
    function: str,
    wanted: WantedDeployment,
    peers: PeerFlags,
    orderer: OrdererFlags,
) -> Result:
    payload = ChaincodeInput(args=deployment_args(channel_id, wanted, function.encode()))
    async with open_session(_wording(verb), peers, channel_id=channel_id) as session:
        ordering = await session.connect_orderer(orderer, channel_id)
        return await session.submit(channel_id, LSCC, payload, {}, ordering, None)


def listed(channel_id: str, peers: PeerFlags) -> Iterator[str]:
    """Yield what a peer has installed, or what a channel, if one is named, has deployed."""
    function = b"getchaincodes" if channel_id else b"getinstalledchaincodes"
    result = run(_list, channel_id, function, peers)
    if result.status >= ERROR_THRESHOLD:
        raise click.ClickException(f"bad response: {result.status} - {result.message}")
    where = f"instantiated chaincodes on channel {channel_id}" if channel_id else ""
    yield f"Get {where or 'installed chaincodes on peer'}:"
    for each in decode(ChaincodeQueryResponse, result.payload).chaincodes:
        yield _described(each)


async def _list(channel_id: str, function: bytes, peers: PeerFlags) -> Result:
    async with open_session(_wording("list"), peers, channel_id=channel_id) as session:
        return await session.ask(channel_id, LSCC, function)


def _described(info: ChaincodeInfo) -> str:
    fields = {
        "Name": info.name,
        "Version": info.version,
        "Path": info.path,
        "Input": info.input,
        "Escc": info.escc,
        "Vscc": info.vscc,
        "Id": info.id.hex(),
    }
    return ", ".join(f"{key}: {value}" for key, value in fields.items() if value)


def _wording(verb: str) -> Wording:
    return Wording(
        verb=verb,
        endorser_client=f"error getting endorser client for {verb}",
        endorsing=f"error endorsing chaincode {verb}",
    )
