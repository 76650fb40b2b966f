"""The TLS context of the endpoint, from files.

Room:      peer.operations   (imports peer.config, peer.errors; used by endpoint)
Loop:      none
Fabric:    core/operations/tls.go (release-2.5)
"""

from __future__ import annotations

import ssl

from peer.config.model import OperationsConfig
from peer.errors import ConfigError

CIPHERS = "ECDHE+AESGCM"


def server_context(config: OperationsConfig) -> ssl.SSLContext:
    """Return a context that verifies the certificate of a client that shows one.

    Raises:
        ConfigError: a file cannot be used, or nobody could be let in.
    """
    problems: list[str] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(config.tls_certificate, config.tls_key)
    except OSError as exc:
        problems.append(f"operations.tls.cert.file and key.file: {_reason(exc)}")
    for path in config.tls_client_root_cas:
        try:
            context.load_verify_locations(path)
        except OSError as exc:
            problems.append(f"operations.tls.clientRootCAs.files: {path}: {_reason(exc)}")
    if config.tls_client_root_cas:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # Go trusts intermediates, too
        is_required = config.tls_client_auth_required
        context.verify_mode = ssl.CERT_REQUIRED if is_required else ssl.CERT_OPTIONAL
    elif config.tls_client_auth_required:
        problems.append(
            "operations.tls.clientAuthRequired is true and clientRootCAs.files is empty: "
            "nobody could be let in"
        )
    if problems:
        raise ConfigError(problems)
    return context


def _reason(exc: OSError) -> str:
    return exc.strerror or str(exc)
