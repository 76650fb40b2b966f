"""The peer's configuration: Fabric's core.yaml and ``CORE_*`` variables, strictly read.

Room:      peer.config   (imports peer.errors and peer.logs;
           used by cli and by what puts a peer together)
Loop:      none
"""

from __future__ import annotations

from peer.config.addresses import chaincode_host as chaincode_host
from peer.config.addresses import chaincode_listen_address as chaincode_listen_address
from peer.config.addresses import peer_address as peer_address
from peer.config.model import ChaincodeConfig as ChaincodeConfig
from peer.config.model import LedgerConfig as LedgerConfig
from peer.config.model import LoggingConfig as LoggingConfig
from peer.config.model import NodeConfig as NodeConfig
from peer.config.model import PeerConfig as PeerConfig
from peer.config.model import VmConfig as VmConfig
