"""OpenTelemetry traces; needs ``triopeer[otel]`` where they are on, and costs nothing elsewhere."""

from peer.tracing.kinds import Kinds as Kinds
from peer.tracing.kinds import kinds_of as kinds_of

__all__ = ["Kinds", "kinds_of"]
