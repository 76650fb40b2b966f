"""Which triopeer this is; the build of the distribution reads it, too.

Room:      peer.version   (a leaf)
Loop:      none
Fabric:    common/metadata/metadata.go (release-2.5)

The installed distribution knows as well, but takes ten milliseconds to tell.
"""

from __future__ import annotations

VERSION = "0.1.0"
