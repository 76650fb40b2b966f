"""The operations endpoint: metrics, health, log levels and version over HTTP.

Room:      peer.operations   (imports config, errors, logs, metrics; opened by assembly)
Loop:      Trio
Lifetime:  peer
"""

from peer.operations.endpoint import open_operations as open_operations
