"""Fabric's keys that this peer knows but does not act on.

Room:      peer.config
Loop:      none
Fabric:    sampleconfig/core.yaml, releases 1.4 to 3.1

A core.yaml written for a Fabric peer loads unchanged: these keys are accepted, reported by
``config show --all``, and have no effect. Keys in neither list are typing errors.
"""

from __future__ import annotations

from collections.abc import Iterator

_UNUSED = """
peer: gomaxprocs localMspType validatorPoolSize
peer.adminService: listenAddress
peer.BCCSP: Default
peer.BCCSP.PKCS11: AltID Hash Immutable KeyIds Label Library Pin Security SoftwareVerify
peer.BCCSP.PKCS11.FileKeyStore: KeyStore
peer.BCCSP.SW: Hash Security
peer.BCCSP.SW.FileKeyStore: KeyStore
peer.deliveryclient: blockGossipEnabled minimalReconnectInterval policy reconnectTotalTimeThreshold
peer.discovery: authCacheEnabled authCacheMaxSize authCachePurgeRetentionRatio
peer.gossip: aliveExpirationTimeout aliveTimeInterval bootstrap connTimeout dialTimeout
peer.gossip: digestWaitTime endpoint externalEndpoint maxBlockCountToStore maxConnectionAttempts
peer.gossip: maxPropagationBurstLatency maxPropagationBurstSize membershipTrackerInterval
peer.gossip: msgExpirationFactor nonBlockingCommitMode orgLeader propagateIterations
peer.gossip: propagatePeerNum publishCertPeriod publishStateInfoInterval pullInterval pullPeerNum
peer.gossip: reconnectInterval recvBuffSize requestStateInfoInterval requestWaitTime
peer.gossip: responseWaitTime sendBuffSize skipBlockVerification skipHandshake
peer.gossip: stateInfoRetentionInterval useLeaderElection
peer.gossip.election: leaderAliveThreshold leaderElectionDuration membershipSampleInterval
peer.gossip.election: startupGracePeriod
peer.gossip.pvtData: btlPullMargin pullRetryThreshold pushAckTimeout reconcileBatchSize
peer.gossip.pvtData: reconcileSleepInterval reconciliationEnabled
peer.gossip.pvtData: skipPullingInvalidTransactionsDuringCommit transientstoreMaxBlockRetention
peer.gossip.pvtData.implicitCollectionDisseminationPolicy: maxPeerCount requiredPeerCount
peer.gossip.state: batchSize blockBufferSize checkInterval enabled maxRetries responseTimeout
peer.handlers: authFilters decorators endorsers validators
peer.keepalive.client: interval timeout
peer.keepalive.deliveryClient: interval timeout
peer.limits.concurrency: qscc
peer.profile: enabled listenAddress
chaincode: pull system systemPlugins
chaincode.car: runtime
chaincode.id: name path
chaincode.java: Dockerfile
ledger: blockchain
ledger.pvtdataStore: collElgProcDbBatchesInterval collElgProcMaxDbBatchSize
ledger.pvtdataStore: deprioritizedDataReconcilerInterval purgeInterval purgedKeyAuditLogging
ledger.state.couchDBConfig: autoWarmIndexes cacheSize createGlobalChangesDB redoLogPath
ledger.state.couchDBConfig: warmIndexesAfterNBlocks
metrics.statsd: address network prefix writeInterval
"""

_DOCKER = """
vm.docker: attachStdout
vm.docker.tls: enabled
vm.docker.tls.ca: file
vm.docker.tls.cert: file
vm.docker.tls.key: file
vm.docker.hostConfig: BlkioWeight CapAdd CapDrop CgroupParent CpuPeriod CpuQuota CpuShares Cpuset
vm.docker.hostConfig: CpusetCPUs CpusetMEMs Dns DnsSearch ExtraHosts IpcMode LogConfig Memory
vm.docker.hostConfig: MemorySwap MemorySwappiness NetworkMode OomKillDisable PidMode ReadonlyRootfs
vm.docker.hostConfig: SecurityOpt UTSMode
vm.docker: hardening leftovers stopGrace
vm.docker.hostConfig: Labels PidsLimit Runtime Tmpfs Ulimits User
"""


def _keys(table: str) -> Iterator[str]:
    for line in table.split("\n"):
        section, _, names = line.partition(":")
        yield from (f"{section}.{name}" for name in names.split())


UNUSED = tuple(_keys(_UNUSED))
"""Known keys without effect."""

DOCKER = tuple(_keys(_DOCKER))
"""Keys of the docker runtime, handed to it as they are; the last two lines are not Fabric's."""

SECRET = frozenset({"peer.BCCSP.PKCS11.Pin", "ledger.state.couchDBConfig.password"})
"""Keys whose values are never shown."""

FOREIGN_ENV = frozenset(
    {
        "CORE_CHAINCODE_BUILDLEVEL",
        "CORE_TLS_CLIENT_CERT_FILE",
        "CORE_TLS_CLIENT_CERT_PATH",
        "CORE_TLS_CLIENT_KEY_FILE",
        "CORE_TLS_CLIENT_KEY_PATH",
    }
)
"""Variables of Fabric that look like keys and are for a chaincode's library."""
