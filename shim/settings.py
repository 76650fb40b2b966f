"""Flags and variables of a chaincode process, as every official library reads them.

Room:      shim   (imports its own errors; TLS material only where it is on)
Loop:      none
Lifetime:  none
Fabric:    `Start`, shim/shim.go; `fabric-chaincode-node start` and `server`; Java `ChaincodeBase`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .errors import SetupError

if TYPE_CHECKING:
    from .tls import TLS

TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
FALSE = frozenset(("", "0", "f", "F", "FALSE", "false", "False"))

FLAGS = {
    "-peer.address": "peer",
    "--peer.address": "peer",
    "-peerAddress": "peer",
    "--peerAddress": "peer",
    "-a": "peer",
    "--chaincode-id-name": "ccid",
    "-i": "ccid",
    "--id": "ccid",
    "--chaincode-id": "server_ccid",
    "--chaincode-address": "listen",
    "--chaincode-tls-key-file": "key_file",
    "--chaincode-tls-key-path": "key_path",
    "--chaincode-tls-cert-file": "cert_file",
    "--chaincode-tls-cert-path": "cert_path",
    "--chaincode-tls-client-cacert-file": "ca_file",
    "--chaincode-tls-client-cacert-path": "ca_path",
}
"""Spelling on the command line -> option. Flags that are not listed belong to the program."""


class Settings:
    """What a chaincode process needs to start.

    Attributes:
        ccid: id to register under.
        address: ``host:port`` or ``unix:///path``; the peer's, or the own one of a server.
        is_server: listen instead of dialling.
        tls: material, None without TLS.
    """

    __slots__ = ("address", "ccid", "is_server", "tls")

    def __init__(self, ccid: str, address: str, is_server: bool, tls: TLS | None) -> None:
        self.ccid = ccid
        self.address = address
        self.is_server = is_server
        self.tls = tls

    def __repr__(self) -> str:
        role = "server" if self.is_server else "client"
        return f"Settings({role}, {self.ccid!r}, {self.address!r}, tls={self.tls!r})"


def read_settings(argv: Sequence[str], env: Mapping[str, str]) -> Settings:
    """Choose the mode and collect what it needs. Flags win over variables.

    A listening address together with an id makes a server, everything else a client.

    Args:
        argv: arguments without the program's name.
        env: environment.

    Raises:
        SetupError: something is missing or unreadable; the text says what.
    """
    options = read_flags(argv)
    ccid = options.get("ccid") or env.get("CORE_CHAINCODE_ID_NAME", "")
    server_ccid = (
        options.get("server_ccid")
        or ccid
        or env.get("CORE_CHAINCODE_ID")
        or env.get("CHAINCODE_ID")
    )
    listen = (
        options.get("listen")
        or env.get("CHAINCODE_SERVER_ADDRESS")
        or env.get("CORE_CHAINCODE_ADDRESS")
    )
    if listen and server_ccid:
        split_address(listen)
        return Settings(server_ccid, listen, True, server_tls(options, env))
    if not ccid:
        raise SetupError("'CORE_CHAINCODE_ID_NAME' must be set")
    peer = options.get("peer") or env.get("CORE_PEER_ADDRESS")
    if not peer:
        raise SetupError("flag 'peer.address' must be set")
    split_address(peer)
    return Settings(ccid, peer, False, client_tls(env))


def read_flags(argv: Sequence[str]) -> dict[str, str]:
    """Pick the flags of `FLAGS`, written ``flag value`` or ``flag=value``; the last one wins.

    Raises:
        SetupError: a value is missing.
    """
    options: dict[str, str] = {}
    rest = iter(argv)
    for argument in rest:
        flag, assigned, value = argument.partition("=")
        if flag not in FLAGS:
            continue
        if not assigned:
            value = next(rest, "")
        if not value:
            raise SetupError(f"flag '{flag}' needs a value")
        options[FLAGS[flag]] = value
    return options


def split_address(address: str) -> tuple[str, int, str]:
    """Return host, port and socket path: ``("peer", 7052, "")`` or ``("", 0, "/run/peer.sock")``.

    An empty host stands for every interface of a server.

    Raises:
        SetupError: it is neither ``host:port`` nor ``unix:///path``.
    """
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        path = path.removeprefix("//")
        if path.startswith("/"):
            return "", 0, path
    else:
        host, _, port = address.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if port.isascii() and port.isdigit() and int(port) < 65536 and "/" not in host:
            return host, int(port), ""
    raise SetupError(f"'{address}' is not an address: expected host:port or unix:///path")


def is_tls_enabled(env: Mapping[str, str]) -> bool:
    """Read ``CORE_PEER_TLS_ENABLED``; missing means off.

    Raises:
        SetupError: it is no boolean.
    """
    value = env.get("CORE_PEER_TLS_ENABLED", "")
    if value in TRUE:
        return True
    if value in FALSE:
        return False
    raise SetupError("'CORE_PEER_TLS_ENABLED' must be set to 'true' or 'false'")


def client_tls(env: Mapping[str, str]) -> TLS | None:
    """Load what a chaincode shows its peer."""
    if not is_tls_enabled(env):
        return None
    from .tls import TLS

    return TLS(
        key=_either(env, "CORE_TLS_CLIENT_KEY_FILE", "CORE_TLS_CLIENT_KEY_PATH"),
        cert=_either(env, "CORE_TLS_CLIENT_CERT_FILE", "CORE_TLS_CLIENT_CERT_PATH"),
        ca=_either(env, "CORE_PEER_TLS_ROOTCERT_FILE"),
    )


def server_tls(options: Mapping[str, str], env: Mapping[str, str]) -> TLS | None:
    """Load what a listening chaincode shows: the flags' files, else the client's variables."""
    names = ("key_file", "key_path", "cert_file", "cert_path", "ca_file", "ca_path")
    given = {name: options.get(name) or env.get(_node_variable(name), "") for name in names}
    if any(given.values()):
        from .tls import TLS

        return TLS(
            key=_either(given, "key_file", "key_path"),
            cert=_either(given, "cert_file", "cert_path"),
            ca=_either(given, "ca_file", "ca_path", optional=True),
        )
    if not is_tls_enabled(env):
        return None
    from .tls import TLS

    return TLS(
        key=_either(env, "CORE_TLS_CLIENT_KEY_FILE", "CORE_TLS_CLIENT_KEY_PATH"),
        cert=_either(env, "CORE_TLS_CLIENT_CERT_FILE", "CORE_TLS_CLIENT_CERT_PATH"),
        ca=_either(env, "CORE_PEER_TLS_ROOTCERT_FILE", optional=True),
    )


def _node_variable(option: str) -> str:
    flag = next(flag for flag, name in FLAGS.items() if name == option)
    return "CORE_" + flag.removeprefix("--").replace("-", "_").upper()


def _either(
    source: Mapping[str, str], plain: str, encoded: str = "", *, optional: bool = False
) -> bytes:
    """Load PEM from the file that *plain* names, else base64 of PEM from the one of *encoded*."""
    if source.get(plain):
        return _read(plain, source[plain])
    if encoded and source.get(encoded):
        return _pem(encoded, _read(encoded, source[encoded]))
    if optional:
        return b""
    raise SetupError(f"TLS is on: set {plain}" + (f" or {encoded}" if encoded else ""))


def _read(name: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as exc:
        raise SetupError(f"{name}: cannot read '{path}': {exc.strerror}") from exc


def _pem(name: str, content: bytes) -> bytes:
    """Undo the base64 around a PEM, if there is any."""
    from binascii import Error, a2b_base64

    if not content.lstrip().startswith(b"-----BEGIN"):
        try:
            content = a2b_base64(content)
        except Error as exc:
            raise SetupError(f"{name}: the file is neither PEM nor base64: {exc}") from exc
    return content
