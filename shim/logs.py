"""Logging of a chaincode that has not set up its own.

Room:      shim   (imports the standard library; called by `start` only)
Loop:      none
Lifetime:  the process
Fabric:    `SetupChaincodeLogging`, core/chaincode/shim/chaincode.go (release-1.1)
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

LEVELS = {
    "CRITICAL": logging.CRITICAL,
    "FATAL": logging.CRITICAL,
    "PANIC": logging.CRITICAL,
    "ERROR": logging.ERROR,
    "WARNING": logging.WARNING,
    "WARN": logging.WARNING,
    "NOTICE": logging.INFO,
    "INFO": logging.INFO,
    "DEBUG": logging.DEBUG,
}
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def set_up_logging(env: Mapping[str, str]) -> None:
    """Log to standard error.

    ``CORE_CHAINCODE_LOGGING_LEVEL`` is the program's level, ``CORE_CHAINCODE_LOGGING_SHIM`` this
    library's. ``CORE_CHAINCODE_LOGGING_FORMAT`` counts when it is written for Python; peers send
    one for Go.
    """
    style = env.get("CORE_CHAINCODE_LOGGING_FORMAT", "")
    level = env.get("CORE_CHAINCODE_LOGGING_LEVEL", "")
    shim_level = env.get("CORE_CHAINCODE_LOGGING_SHIM", "") or level
    logging.basicConfig(
        level=LEVELS.get(level.upper(), logging.INFO),
        format=style if "%(message)" in style else FORMAT,
    )
    log = logging.getLogger("shim")
    log.setLevel(LEVELS.get(shim_level.upper(), logging.INFO))
    for value in {level, shim_level} - {""}:
        if value.upper() not in LEVELS:
            log.warning("unknown log level '%s': using INFO", value)
