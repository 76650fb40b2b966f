"""Files that commands read and write, with one line for what goes wrong.

Room:      peer.cli
Loop:      none
"""

from __future__ import annotations

from pathlib import Path

import click

from fabric_protos.protos import CollectionConfigPackage
from peer.client.collections import read_collections


def read_file(path: Path, what: str) -> bytes:
    """
    Args:
        what: begins the sentence that says why it cannot be read.

    Raises:
        click.ClickException: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as exc:
        raise click.ClickException(f"{what} {path}: {exc.strerror}") from exc


def write_file(path: Path, content: bytes) -> None:
    """
    Raises:
        click.ClickException: it cannot be written.
    """
    try:
        path.write_bytes(content)
    except OSError as exc:
        raise click.ClickException(f"could not write {path}: {exc.strerror}") from exc


def collections_of(path: str) -> CollectionConfigPackage:
    """Return the collections of a JSON file; of no path, none.

    Raises:
        click.ClickException: it cannot be read.
        InvalidDefinition: there is something else in it.
    """
    if not path:
        return CollectionConfigPackage()
    return read_collections(read_file(Path(path), "could not read file"))
