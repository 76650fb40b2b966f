"""What a launched chaincode finds in its environment and files.

Room:      peer.chaincode   (imports certificates; used by launcher)
Loop:      none
Fabric:    core/container/dockercontroller/dockercontroller.go `GetEnv`, `GetArgs` (release-2.5)
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

from peer.chaincode.certificates import KeyPair

_DIRECTORY = "/etc/hyperledger/fabric"
KEY_BASE64 = f"{_DIRECTORY}/client.key"
CERTIFICATE_BASE64 = f"{_DIRECTORY}/client.crt"
KEY_PEM = f"{_DIRECTORY}/client_pem.key"
CERTIFICATE_PEM = f"{_DIRECTORY}/client_pem.crt"
ROOT_PEM = f"{_DIRECTORY}/peer.crt"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaincodeEnvironment:
    """The part of a chaincode's environment that is the same for every launch.

    Attributes:
        logging_level: for the chaincode's own output.
        logging_shim: for its library.
    """

    msp_id: str
    logging_level: str = "info"
    logging_shim: str = "warning"
    logging_format: str = ""

    def variables(self, ccid: str, *, tls: bool) -> dict[str, str]:
        """Return the variables of one launch."""
        variables = {
            "CORE_CHAINCODE_ID_NAME": ccid,
            "CORE_PEER_TLS_ENABLED": "true" if tls else "false",
            "CORE_CHAINCODE_LOGGING_LEVEL": self.logging_level,
            "CORE_CHAINCODE_LOGGING_SHIM": self.logging_shim,
            "CORE_CHAINCODE_LOGGING_FORMAT": self.logging_format,
            "CORE_PEER_LOCALMSPID": self.msp_id,
        }
        if tls:
            variables |= {
                "CORE_TLS_CLIENT_KEY_PATH": KEY_BASE64,
                "CORE_TLS_CLIENT_CERT_PATH": CERTIFICATE_BASE64,
                "CORE_TLS_CLIENT_KEY_FILE": KEY_PEM,
                "CORE_TLS_CLIENT_CERT_FILE": CERTIFICATE_PEM,
                "CORE_PEER_TLS_ROOTCERT_FILE": ROOT_PEM,
            }
        return variables


def tls_files(client: KeyPair, root: bytes) -> dict[str, bytes]:
    """Return the files old and new libraries read: base64 text for the old, PEM for the new."""
    return {
        KEY_BASE64: base64.b64encode(client.key),
        CERTIFICATE_BASE64: base64.b64encode(client.certificate),
        KEY_PEM: client.key,
        CERTIFICATE_PEM: client.certificate,
        ROOT_PEM: root,
    }
