"""The policies of a channel by path.

Room:      peer.msp
Loop:      none; safe to use from several threads
Lifetime:  one channel configuration
Fabric:    common/policies/manager.go, common/policies/implicitmeta.go (release-2.5)
"""

from __future__ import annotations

from fabric_protos.common import ConfigGroup
from peer.msp.manager import MspManager
from peer.msp.policies.evaluation import Policy


class PolicyManager:
    """The policies of one group of a channel's configuration and of those below.

    Raises:
        PolicyInvalid: a policy of the tree cannot be built.
    """

    def __init__(self, group: ConfigGroup, manager: MspManager, path: str = "Channel") -> None:
        raise NotImplementedError

    def policy(self, path: str) -> Policy:
        """Return the policy at an absolute path (``/Channel/…``), or at one relative to this group.

        A policy that is not there is one that nothing satisfies.
        """
        raise NotImplementedError

    def application_policy(self, parameter: bytes) -> Policy:
        """Return what the bytes of a ``protos.ApplicationPolicy`` ask for.

        Raises:
            PolicyInvalid: they cannot be read or built.
        """
        raise NotImplementedError
