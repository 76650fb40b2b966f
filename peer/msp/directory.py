"""MSP directories, as cryptogen and Fabric CA's client write them.

Room:      peer.msp
Loop:      none; reads files, so call it in a worker thread
Fabric:    msp/configbuilder.go (release-2.5)
"""

from __future__ import annotations

from os import PathLike

from fabric_protos.msp import FabricMspConfig
from peer.msp.identity import SigningIdentity


def load_config(directory: str | PathLike[str], msp_id: str) -> FabricMspConfig:
    """Return what *directory* says of the organisation *msp_id*.

    Raises:
        MspDirectoryError: a file is missing or cannot be used.
    """
    raise NotImplementedError


def load_signing_identity(directory: str | PathLike[str], msp_id: str) -> SigningIdentity:
    """Return the identity of ``signcerts`` with its key of ``keystore``.

    Raises:
        MspDirectoryError: a file is missing or cannot be used, or the certificate has expired.
    """
    raise NotImplementedError
