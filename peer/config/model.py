"""The peer's configuration as values.

Room:      peer.config   (used by cli and by what puts a peer together; everything
           below takes plain values)
Loop:      none
Lifetime:  read once, before the peer opens
Fabric:    core/peer/config.go, core/chaincode/config.go (release-2.5, 3.1 for runtimeParams)

`PeerConfig()` is a peer embedded in a test or an application: everything on the loopback address,
data in a temporary directory. The defaults are otherwise those of Fabric's sample core.yaml.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from peer.config.neighbours import DiscoveryConfig, GatewayConfig
from peer.config.settings import setting, settings_of
from peer.config.values import (
    ADDRESS,
    IMAGE,
    LEVEL,
    LOG_FORMAT,
    LOG_SPEC,
    PATH,
    PATHS,
    SIZE,
    choice,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """The ``peer`` tree."""

    id: str = setting(
        "jdoe",
        key="peer.id",
        doc="Name of this peer; part of container and image names.",
    )
    network_id: str = setting(
        "dev",
        key="peer.networkId",
        doc="Name of the network; part of container and image names.",
    )
    local_msp_id: str = setting(
        "SampleOrg",
        key="peer.localMspId",
        doc="MSP id of the organisation this peer belongs to.",
    )
    msp_config_path: str = setting(
        "",
        key="peer.mspConfigPath",
        kind=PATH,
        doc="MSP directory of this peer; empty: it makes a network of its own, with an orderer. "
        "A relative path starts at the directory of core.yaml.",
    )
    address: str = setting(
        "127.0.0.1:7051",
        key="peer.address",
        kind=ADDRESS,
        doc="Where others reach this peer. An unspecified host is replaced by the machine's own.",
    )
    address_auto_detect: bool = setting(
        False,
        key="peer.addressAutoDetect",
        doc="Replace the host of `peer.address` by the machine's own address.",
    )
    listen_address: str = setting(
        "",
        key="peer.listenAddress",
        kind=ADDRESS,
        doc="Where the peer serves gRPC, port 0 for any free one; empty: nowhere, but "
        "`node start` then takes 127.0.0.1:7051.",
    )
    chaincode_listen_address: str = setting(
        "",
        key="peer.chaincodeListenAddress",
        kind=ADDRESS,
        doc="Where the peer listens in development mode; empty: the host of `peer.address`, "
        "port 7052.",
    )
    chaincode_address: str = setting(
        "",
        key="peer.chaincodeAddress",
        kind=ADDRESS,
        doc="Its host is what chaincodes on an engine of another machine dial; the port is that of "
        "each launch. Without effect elsewhere.",
    )
    file_system_path: str = setting(
        "",
        key="peer.fileSystemPath",
        kind=PATH,
        doc="Directory of all data; empty: a private one that is removed when the peer closes. "
        "A relative path starts at the directory of core.yaml.",
    )
    tls_enabled: bool = setting(
        False,
        key="peer.tls.enabled",
        doc="Use TLS, with chaincodes too.",
    )
    tls_certificate: str = setting(
        "",
        key="peer.tls.cert.file",
        kind=PATH,
        doc="Certificate the peer serves with, PEM, with those that lead to its authority; empty: "
        "the one of the peer's own network.",
    )
    tls_key: str = setting(
        "",
        key="peer.tls.key.file",
        kind=PATH,
        doc="Its private key, PEM.",
    )
    tls_client_auth_required: bool = setting(
        False,
        key="peer.tls.clientAuthRequired",
        doc="Let in only clients that show a certificate.",
    )
    tls_client_root_cas: tuple[str, ...] = setting(
        (),
        key="peer.tls.clientRootCAs.files",
        kind=PATHS,
        doc="Authorities of the clients' certificates, PEM; empty: the one of the peer's own "
        "network.",
    )
    time_window_s: float = setting(
        900.0,
        key="peer.authentication.timewindow",
        minimum=0.0,
        doc="How far the clock of a request for blocks may be off.",
    )
    endorser_concurrency: int = setting(
        2500,
        key="peer.limits.concurrency.endorserService",
        minimum=0,
        doc="Proposals processed at once for clients; one more is refused. 0: any number.",
    )
    deliver_concurrency: int = setting(
        2500,
        key="peer.limits.concurrency.deliverService",
        minimum=0,
        doc="Streams of blocks served at once; one more is refused. 0: any number.",
    )
    gateway_concurrency: int = setting(
        500,
        key="peer.limits.concurrency.gatewayService",
        minimum=0,
        doc="Calls of the Gateway answered at once; one more is refused. 0: any number.",
    )
    max_recv_msg_size: int = setting(
        100 * 1024 * 1024,
        key="peer.maxRecvMsgSize",
        kind=SIZE,
        minimum=1,
        doc="Largest gRPC message the peer takes.",
    )
    max_send_msg_size: int = setting(
        100 * 1024 * 1024,
        key="peer.maxSendMsgSize",
        kind=SIZE,
        minimum=1,
        doc="Largest gRPC message the peer answers with.",
    )
    keepalive_min_interval_s: float = setting(
        60.0,
        key="peer.keepalive.minInterval",
        minimum=0.0,
        doc="Shortest time between two pings of a client; one that pings more often is sent away.",
    )
    keepalive_interval_s: float = setting(
        7200.0,
        key="peer.keepalive.interval",
        minimum=1.0,
        below=1.0,
        doc="Silence after which a server pings its client.",
    )
    keepalive_timeout_s: float = setting(
        20.0,
        key="peer.keepalive.timeout",
        minimum=1.0,
        below=20.0,
        doc="How long a server waits for the answer to its ping.",
    )


class ExternalBuilder(NamedTuple):
    """One entry of ``chaincode.externalBuilders``.

    Attributes:
        path: directory that holds ``bin/detect`` and the others.
        propagate_environment: variables of the peer that its programs see.
    """

    name: str
    path: Path
    propagate_environment: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaincodeConfig:
    """The ``chaincode`` tree.

    Attributes:
        external_builders: ``chaincode.externalBuilders``, in their order.
    """

    mode: str = setting(
        "net",
        key="chaincode.mode",
        kind=choice(["net", "dev"]),
        doc="`net`: the peer starts chaincodes; `dev`: you do.",
    )
    startup_timeout_s: float = setting(
        300.0,
        key="chaincode.startuptimeout",
        minimum=5.0,
        below=5.0,
        doc="From launch to READY, the build included.",
    )
    install_timeout_s: float = setting(
        300.0,
        key="chaincode.installTimeout",
        minimum=1.0,
        below=300.0,
        doc="Building a package when it is installed.",
    )
    builder: str = setting(
        "hyperledger/fabric-ccenv:2.5",
        key="chaincode.builder",
        kind=IMAGE,
        doc="Image that builds Go code.",
    )
    golang_runtime: str = setting(
        "hyperledger/fabric-baseos:2.5",
        key="chaincode.golang.runtime",
        kind=IMAGE,
        doc="Image that runs Go programs.",
    )
    golang_dynamic_link: bool = setting(
        False,
        key="chaincode.golang.dynamicLink",
        doc="Let Go programs use libraries of the image they run in.",
    )
    node_runtime: str = setting(
        "hyperledger/fabric-nodeenv:2.5",
        key="chaincode.node.runtime",
        kind=IMAGE,
        doc="Image that builds and runs Node code.",
    )
    java_runtime: str = setting(
        "hyperledger/fabric-javaenv:2.5",
        key="chaincode.java.runtime",
        kind=IMAGE,
        doc="Image that builds and runs Java code.",
    )
    python_runtime: str = setting(
        "python:3.12-slim",
        key="chaincode.python.runtime",
        kind=IMAGE,
        doc="Image that builds and runs Python code. Not a key of Fabric.",
    )
    external_builders: tuple[ExternalBuilder, ...] = ()
    execute_timeout_s: float = setting(
        30.0,
        key="chaincode.executetimeout",
        minimum=1.0,
        below=30.0,
        doc="One execution of a chaincode.",
    )
    stop_timeout_s: float = setting(
        5.0,
        key="chaincode.stopTimeout",
        minimum=0,
        doc="Longest wait for a runtime to stop an instance, if the runtime sets no limit itself; "
        "the process runtime does, see `vm.process.stopGrace`. Not a key of Fabric.",
    )
    keepalive_s: int = setting(
        0,
        key="chaincode.keepalive",
        doc="Seconds between keep-alive messages to a chaincode; 0 or less: none.",
    )
    logging_level: str = setting(
        "info",
        key="chaincode.logging.level",
        kind=LEVEL,
        doc="Log level handed to a chaincode.",
    )
    logging_shim: str = setting(
        "warning",
        key="chaincode.logging.shim",
        kind=LEVEL,
        doc="Log level handed to a chaincode for its library.",
    )
    logging_format: str = setting(
        "%{time:2006-01-02 15:04:05.000 MST} [%{module}] %{shortfunc} -> %{level:.4s} %{message}",
        key="chaincode.logging.format",
        doc="Log format handed to a chaincode.",
    )
    use_write_batch: bool = setting(
        True,
        key="chaincode.runtimeParams.useWriteBatch",
        doc="Let a chaincode send its writes in batches.",
    )
    max_size_write_batch: int = setting(
        1000,
        key="chaincode.runtimeParams.maxSizeWriteBatch",
        minimum=1,
        below=1000,
        doc="Writes in one batch.",
    )
    use_get_multiple_keys: bool = setting(
        True,
        key="chaincode.runtimeParams.useGetMultipleKeys",
        doc="Let a chaincode read many keys with one request.",
    )
    max_size_get_multiple_keys: int = setting(
        1000,
        key="chaincode.runtimeParams.maxSizeGetMultipleKeys",
        minimum=1,
        below=1000,
        doc="Keys in one such request.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class VmConfig:
    """The ``vm`` tree: where chaincode runs.

    Attributes:
        options: everything the configuration says under ``vm``, as nested mappings in Fabric's
            spelling, for the backend; what is not set is absent.
    """

    runtime: str = setting(
        "process",
        key="vm.runtime",
        doc="Which runtime starts chaincodes: `process`, `docker`, `podman` or another one "
        "that is installed. Not a key of Fabric.",
    )
    endpoint: str = setting(
        "",
        key="vm.endpoint",
        doc="Address of the container engine; empty: the engine's usual one.",
    )
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerConfig:
    """The ``ledger`` tree."""

    total_query_limit: int = setting(
        100_000,
        key="ledger.state.totalQueryLimit",
        minimum=1,
        doc="Records one query returns at most.",
    )
    state_database: str = setting(
        "goleveldb",
        key="ledger.state.stateDatabase",
        kind=choice(["goleveldb", "CouchDB"]),
        doc="Who answers rich queries: `goleveldb` is the embedded store, which is SQLite here; "
        "`CouchDB` a server that holds the documents besides.",
    )
    couchdb_address: str = setting(
        "127.0.0.1:5984",
        key="ledger.state.couchDBConfig.couchDBAddress",
        kind=ADDRESS,
        doc="Where CouchDB is. It must be this peer's alone.",
    )
    couchdb_username: str = setting(
        "",
        key="ledger.state.couchDBConfig.username",
        doc="Of an administrator of CouchDB; empty: none.",
    )
    couchdb_password: str = setting(
        "",
        key="ledger.state.couchDBConfig.password",
        doc="The administrator's password.",
        secret=True,
    )
    couchdb_max_retries: int = setting(
        3,
        key="ledger.state.couchDBConfig.maxRetries",
        minimum=0,
        doc="Attempts after the first one that CouchDB does not answer.",
    )
    couchdb_max_retries_on_startup: int = setting(
        10,
        key="ledger.state.couchDBConfig.maxRetriesOnStartup",
        minimum=0,
        doc="The same for the first request of a peer.",
    )
    couchdb_request_timeout_s: float = setting(
        35.0,
        key="ledger.state.couchDBConfig.requestTimeout",
        minimum=0.1,
        doc="One attempt.",
    )
    couchdb_internal_query_limit: int = setting(
        1000,
        key="ledger.state.couchDBConfig.internalQueryLimit",
        minimum=1,
        doc="Keys that one answer of CouchDB holds at most.",
    )
    couchdb_max_batch_update_size: int = setting(
        1000,
        key="ledger.state.couchDBConfig.maxBatchUpdateSize",
        minimum=1,
        doc="Documents that one request writes at most.",
    )
    history_enabled: bool = setting(
        True,
        key="ledger.history.enableHistoryDatabase",
        doc="Keep the past values of every key.",
    )
    snapshots_root: str = setting(
        "",
        key="ledger.snapshots.rootDir",
        kind=PATH,
        doc="Where snapshots are generated; `snapshots` below `peer.fileSystemPath` if empty.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """What commands that call a peer use besides its address, TLS or not, and the MSP."""

    connect_timeout_s: float = setting(
        3.0,
        key="peer.client.connTimeout",
        minimum=0.001,
        below=3.0,
        doc="How long a command tries to connect to a peer.",
    )
    root_certificate: str = setting(
        "",
        key="peer.tls.rootcert.file",
        kind=PATH,
        doc="File of the certificates that the peer's TLS certificate must chain to.",
    )
    server_name: str = setting(
        "",
        key="peer.tls.serverhostoverride",
        doc="Name to expect in the peer's TLS certificate instead of the host of its address.",
    )
    certificate: str = setting(
        "",
        key="peer.tls.clientCert.file",
        kind=PATH,
        doc="File of the certificate that a command shows a peer that asks for one.",
    )
    private_key: str = setting(
        "",
        key="peer.tls.clientKey.file",
        kind=PATH,
        doc="File of its key.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressOverride:
    """One entry of ``peer.deliveryclient.addressOverrides``.

    Attributes:
        channel_address: ``from``, the orderer's address as channels give it.
        address: ``to``, where it really is.
        roots: ``caCertsFile``, a PEM file; empty: the authorities that the channel names.
    """

    channel_address: str
    address: str
    roots: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryConfig:
    """The ``peer.deliveryclient`` tree: how ordering services on other machines are followed.

    Attributes:
        address_overrides: ``peer.deliveryclient.addressOverrides``, in their order.
    """

    connect_timeout_s: float = setting(
        3.0,
        key="peer.deliveryclient.connTimeout",
        minimum=0.001,
        below=3.0,
        doc="How long the peer tries to connect to an orderer.",
    )
    longest_pause_s: float = setting(
        3600.0,
        key="peer.deliveryclient.reConnectBackoffThreshold",
        minimum=0.1,
        below=0.1,
        doc="Longest pause between two attempts to get blocks; the first is 100ms, each a fifth "
        "longer. The peer never gives up.",
    )
    silence_s: float = setting(
        30.0,
        key="peer.deliveryclient.blockCensorshipTimeoutKey",
        minimum=0.1,
        below=30.0,
        doc="After so long without a block another orderer is asked for its newest; after as long "
        "again, an orderer that keeps back what the other has is left.",
    )
    address_overrides: tuple[AddressOverride, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OrdererConfig:
    """The ``orderer`` tree: the ordering service of the peer's own network. Not Fabric's."""

    listen_address: str = setting(
        "",
        key="orderer.listenAddress",
        kind=ADDRESS,
        doc="Where it serves gRPC, port 0 for any free one; empty: nowhere, but `node start` then "
        "takes 127.0.0.1:7050. Not a key of Fabric.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationsConfig:
    """The ``operations`` tree."""

    listen_address: str = setting(
        "",
        key="operations.listenAddress",
        kind=ADDRESS,
        doc="Where the operations endpoint listens, port 0 for any free one; empty: nowhere.",
    )
    tls_enabled: bool = setting(
        False,
        key="operations.tls.enabled",
        doc="Use TLS there. Metrics and log levels are then for holders of a certificate.",
    )
    tls_certificate: str = setting(
        "",
        key="operations.tls.cert.file",
        kind=PATH,
        doc="Certificate of the endpoint, PEM, with those that lead to its authority.",
    )
    tls_key: str = setting(
        "",
        key="operations.tls.key.file",
        kind=PATH,
        doc="Its private key, PEM.",
    )
    tls_client_auth_required: bool = setting(
        False,
        key="operations.tls.clientAuthRequired",
        doc="Let in only holders of a certificate, for health and version, too.",
    )
    tls_client_root_cas: tuple[str, ...] = setting(
        (),
        key="operations.tls.clientRootCAs.files",
        kind=PATHS,
        doc="Authorities of the clients' certificates, PEM.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """The ``metrics`` tree."""

    provider: str = setting(
        "disabled",
        key="metrics.provider",
        kind=choice(["disabled", "prometheus", "statsd"]),
        doc="`prometheus` shows metrics at the operations endpoint; `statsd` is as `disabled`, "
        "with a warning.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingConfig:
    """The ``tracing`` tree: traces for OpenTelemetry. Not Fabric's."""

    provider: str = setting(
        "disabled",
        key="tracing.provider",
        kind=choice(["disabled", "otlp"]),
        doc="`otlp` sends traces to a collector, which the `OTEL_*` variables of OpenTelemetry "
        "describe; needs `triopeer[otel]`. Not a key of Fabric.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggingConfig:
    """The peer's own log. The keys are not Fabric's, the variables are."""

    spec: str = setting(
        "info",
        key="logging.spec",
        kind=LOG_SPEC,
        env="FABRIC_LOGGING_SPEC",
        doc="Levels, as in `warning` or `info:peer.chaincode=debug`.",
    )
    format: str = setting(
        "text",
        key="logging.format",
        kind=LOG_FORMAT,
        env="FABRIC_LOGGING_FORMAT",
        doc="`text` or `json`; a pattern of Fabric's means `text`.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConfig:
    """Everything that can be set about a peer.

    A test that needs a limit `load` would not accept takes it with `dataclasses.replace`.

    Attributes:
        unused: keys that were set and are Fabric's, but have no effect here → value.
        origins: key → ``default``, ``core.yaml:<line>``, the environment variable, or ``flag``.
        warnings: values that were replaced by an acceptable one, a sentence each.
    """

    peer: NodeConfig = field(default_factory=NodeConfig)
    chaincode: ChaincodeConfig = field(default_factory=ChaincodeConfig)
    vm: VmConfig = field(default_factory=VmConfig)
    gateway: GatewayConfig = field(default_factory=GatewayConfig)
    discovery: DiscoveryConfig = field(default_factory=DiscoveryConfig)
    ledger: LedgerConfig = field(default_factory=LedgerConfig)
    client: ClientConfig = field(default_factory=ClientConfig)
    delivery: DeliveryConfig = field(default_factory=DeliveryConfig)
    orderer: OrdererConfig = field(default_factory=OrdererConfig)
    operations: OperationsConfig = field(default_factory=OperationsConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    tracing: TracingConfig = field(default_factory=TracingConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    unused: Mapping[str, object] = field(default_factory=dict, repr=False)
    origins: Mapping[str, str] = field(
        default_factory=lambda: {place.setting.key: "default" for place in settings_of(PeerConfig)},
        repr=False,
        compare=False,
    )
    warnings: tuple[str, ...] = field(default=(), repr=False, compare=False)

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        *,
        env: Mapping[str, str] = os.environ,
        overrides: Mapping[str, str] | None = None,
    ) -> PeerConfig:
        """Read the configuration; flags win over environment, core.yaml and defaults.

        Args:
            path: a core.yaml or the directory that holds it; None looks in ``FABRIC_CFG_PATH`` and
                does without a file where that is not set.
            env: the environment; only ``CORE_*`` and ``FABRIC_*`` are looked at, and an empty
                variable counts as not set.
            overrides: key → text, as flags give them.

        Raises:
            ConfigError: with every problem found, each with the file and line or the variable.
        """
        from peer.config.reading import read  # `PeerConfig()` needs no YAML

        return read(cls, path, env, overrides or {})
