"""What databases are called in CouchDB.

Room:      peer.couchdb   (standard library only)
Loop:      none
Fabric:    core/ledger/kvledger/txmgmt/statedb/statecouchdb/couchdbutil.go (release-2.5)
"""

from __future__ import annotations

import re
from hashlib import sha256

MAX_LENGTH = 238
PART_LENGTH = 50

_UPPER_CASE = re.compile("[A-Z]")


def namespace_database(channel_id: str, namespace: str) -> str:
    """Return the database of a namespace: a chaincode's, or that of a collection.

    Source: `constructNamespaceDBName`, `mapAndValidateDatabaseName`.
    """
    escaped = _UPPER_CASE.sub(lambda found: f"${found[0].lower()}", namespace)
    name = f"{channel_id}_{escaped}"
    if len(name) > MAX_LENGTH:
        digest = sha256(f"{channel_id}_{namespace}".encode()).hexdigest()
        parts = "$$".join(part[:PART_LENGTH] for part in escaped.split("$$"))
        name = f"{channel_id[:PART_LENGTH]}_{parts}({digest})"
    return name.replace(".", "$")


def metadata_database(channel_id: str) -> str:
    """Return the database that holds the savepoint of a channel.

    Source: `constructMetadataDBName`.
    """
    name = channel_id
    if len(name) > MAX_LENGTH:
        name = f"{name[:PART_LENGTH]}({sha256(name.encode()).hexdigest()})"
    return f"{name}_".replace(".", "$")


def is_of_channel(database: str, channel_id: str) -> bool:
    """Tell whether a database holds documents of a channel, or its savepoint.

    No channel id has an underscore. Databases of a channel whose id is longer than 50, and whose
    names were cut, are not recognised: they look like those of another such channel.
    """
    prefix = f"{channel_id}_".replace(".", "$")
    return database.startswith(prefix) or database == metadata_database(channel_id)
