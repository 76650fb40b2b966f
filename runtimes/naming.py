"""Names of containers and images, one function each.

Room:      runtimes   (imports runtimes.api; used by the container backends)
Loop:      none
Fabric:    `GetVMName`, `GetVMNameForDocker`, core/container/dockercontroller/dockercontroller.go
           (release-2.5)
"""

from __future__ import annotations

import hashlib
import re

from runtimes.api import NameRejected

_FORBIDDEN = re.compile(r"[^a-zA-Z0-9_.-]")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")


def container_name(ccid: str, *, network_id: str = "", peer_id: str = "") -> str:
    """Return the name under which a chaincode's container is created, stopped and waited for."""
    return _FORBIDDEN.sub("-", _qualified(ccid, network_id, peer_id))


def image_name(ccid: str, *, network_id: str = "", peer_id: str = "") -> str:
    """Return the repository name of a chaincode's image; it carries no tag.

    Raises:
        NameRejected: the result would not be a repository name, for example because of two
            separators in a row or a leading one.
    """
    name = _qualified(ccid, network_id, peer_id).replace(":", "-")
    digest = hashlib.sha256(name.encode()).hexdigest()
    image = f"{_FORBIDDEN.sub('-', name)}-{digest}".lower()
    if not _REPOSITORY.fullmatch(image):
        raise NameRejected(
            f"Error constructing Docker VM Name. '{image}' breaks Docker's repository naming rules"
        )
    return image


def _qualified(ccid: str, network_id: str, peer_id: str) -> str:
    return "-".join(part for part in (network_id, peer_id, ccid) if part)
