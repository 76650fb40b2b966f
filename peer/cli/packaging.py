"""What ``lifecycle chaincode`` does with packages.

Room:      peer.cli
Loop:      starts Trio
Fabric:    internal/peer/lifecycle/chaincode/{package,install,queryinstalled,getinstalledpackage,
           calculatepackageid}.go (release-2.5)
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import betterproto2
import click

from fabric_protos.codec import decode, encode
from fabric_protos.lifecycle import (
    GetInstalledChaincodePackageArgs,
    GetInstalledChaincodePackageResult,
    InstallChaincodeArgs,
    InstallChaincodeResult,
    QueryInstalledChaincodesArgs,
    QueryInstalledChaincodesResult,
)
from peer.cli.files import read_file, write_file
from peer.cli.flags import PeerFlags
from peer.cli.gotext import response_text, to_json
from peer.cli.session import OK, Wording, open_session, run
from peer.client.calls import Result
from peer.errors import PackageError
from peer.lifecycle.packages import pack, read_package
from peer.lifecycle.state import LIFECYCLE

log = logging.getLogger("peer.cli")

LANGUAGES = ("golang", "node", "java", "python", "ccaas")
_GO_MODULE = re.compile(r"^module\s+(\S+)", re.MULTILINE)


def package(output: Path, source: Path, language: str, label: str) -> None:
    """Write a package of a directory.

    Raises:
        click.ClickException, PackageError: it cannot be one.
    """
    kind = language.lower()
    if kind not in LANGUAGES:
        raise click.ClickException(f"unknown chaincodeType: {language.upper()}")
    root, module = _go_module(source) if kind == "golang" else (source, "")
    try:
        data = pack(root, kind, label, module=module)
    except OSError as exc:
        raise PackageError(f"error getting chaincode bytes: {exc}") from exc
    write_file(output, data)


def _go_module(source: Path) -> tuple[Path, str]:
    """Return the directory of the module that a Go program is part of, and its import path.

    What has no module, a program that is built or a tree for GOPATH, is packaged as it is.
    """
    place = source.resolve()
    for root in (place, *place.parents):
        file = root / "go.mod"
        if file.is_file() and (found := _GO_MODULE.search(file.read_text(errors="replace"))):
            below = place.relative_to(root).as_posix()
            return root, found[1] if below == "." else f"{found[1]}/{below}"
    return source, ""


def install(file: Path, peers: PeerFlags) -> None:
    """Install a package on a peer; the log tells its id."""
    data = read_file(file, "failed to read chaincode package at")
    arguments = InstallChaincodeArgs(chaincode_install_package=data)
    result = _ask("install", arguments, peers)
    if result.status != OK:
        raise click.ClickException(
            f"chaincode install failed with status: {result.status} - {result.message}"
        )
    told = response_text(result.status, result.message, result.payload)
    log.info("Installed remotely: response:<%s >", told)
    package_id = decode(InstallChaincodeResult, result.payload).package_id
    log.info("Chaincode code package identifier: %s", package_id)


def query_installed(peers: PeerFlags, *, as_json: bool) -> None:
    """Print the packages of a peer."""
    result = _ask("queryinstalled", QueryInstalledChaincodesArgs(), peers)
    check_query(result)
    found = decode(QueryInstalledChaincodesResult, result.payload)
    if as_json:
        click.echo(to_json(found))
        return
    click.echo("Installed chaincodes on peer:")
    for each in found.installed_chaincodes:
        click.echo(f"Package ID: {each.package_id}, Label: {each.label}")


def get_installed(package_id: str, directory: Path, peers: PeerFlags) -> None:
    """Write a package of a peer to a file that is named after it."""
    arguments = GetInstalledChaincodePackageArgs(package_id=package_id)
    result = _ask("getinstalledpackage", arguments, peers)
    check_query(result)
    found = decode(GetInstalledChaincodePackageResult, result.payload)
    if "/" in package_id:
        raise click.ClickException(f"{package_id} is no name of a file")
    write_file(directory / f"{package_id}.tar.gz", found.chaincode_install_package)


def calculate_id(file: Path, *, as_json: bool) -> None:
    """Print the id of a package file."""
    data = read_file(file, "failed to read chaincode package at")
    package_id = read_package(data).ccid
    click.echo(json.dumps({"package_id": package_id}, indent="\t") if as_json else package_id)


def check_query(result: Result) -> None:
    """
    Raises:
        click.ClickException: a query was not answered.
    """
    if result.status != OK:
        raise click.ClickException(f"query failed with status: {result.status} - {result.message}")


def wording(verb: str) -> Wording:
    """Return how the commands of this family tell of failures."""
    return Wording(
        verb=verb,
        endorser_client=f"failed to retrieve endorser client for {verb}",
        endorsing=(
            "failed to endorse chaincode install"
            if verb == "install"
            else "failed to endorse proposal"
        ),
        flags="failed to validate peer connection parameters",
        one_peer="'{verb}' command supports one peer. {count} peers provided",
        assembling="failed to create signed transaction",
        sending="failed to send transaction",
    )


def ask(verb: str, channel_id: str, arguments: betterproto2.Message, peers: PeerFlags) -> Result:
    """Ask ``_lifecycle`` of a peer."""
    return run(_lifecycle, verb, channel_id, arguments, peers)


def _ask(verb: str, arguments: betterproto2.Message, peers: PeerFlags) -> Result:
    return ask(verb, "", arguments, peers)


async def _lifecycle(
    verb: str, channel_id: str, arguments: betterproto2.Message, peers: PeerFlags
) -> Result:
    function = type(arguments).__name__.removesuffix("Args").encode()
    async with open_session(wording(verb), peers, channel_id=channel_id) as session:
        return await session.ask(channel_id, LIFECYCLE, function, encode(arguments))
