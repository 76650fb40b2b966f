"""Java.

Room:      peer.lifecycle.platforms
Loop:      Trio
Lifetime:  one build
Fabric:    core/chaincode/platforms/java/platform.go (release-2.5)
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from peer.lifecycle.archive import Entry
from peer.lifecycle.platforms.platform import (
    BASH_PROBE,
    PLAIN_FILE_MODE,
    Code,
    Images,
    Recipe,
    Run,
    check_names,
)
from runtimes.api import BUILD_INPUT, BUILD_OUTPUT, PEER_ADDRESS, BuildFailed

JAR = "chaincode.jar"
# Fabric takes prebuilt jars too, though its own rule for names forgets them.
_NAMES = re.compile(
    r"META-INF/.*|src/((src|META-INF)/.*|build\.gradle|settings\.gradle|pom\.xml|[^/]+\.jar)"
    r"(?<!\.class)"
)
_MADE = {"build.gradle": f"build/libs/{JAR}", "pom.xml": f"target/{JAR}"}
_HOME = "/root/chaincode-java"
_BUILD = f"""\
set -e
if [ -x ./build.sh ]; then exec ./build.sh; fi
mkdir -p {BUILD_OUTPUT}
cp {BUILD_INPUT}/src/*.jar {BUILD_OUTPUT}/{JAR}
"""
_START = f"""\
if [ -x {_HOME}/start ]; then exec {_HOME}/start --peerAddress "$0"; fi
exec java -jar {_HOME}/chaincode/{JAR} --peerAddress "$0"
"""


class Java:
    """Takes the jar of a package, or has Gradle or Maven make one."""

    name = "java"
    markers = (JAR, "pom.xml", "build.gradle")

    def check(self, entries: Sequence[Entry]) -> None:
        """See `Platform.check`."""
        check_names(entries, _NAMES, PLAIN_FILE_MODE)

    def is_ready(self, code: Code) -> bool:
        """The jar is where it is looked for."""
        return any((code.source / name).is_file() for name in (JAR, *_MADE.values()))

    def fingerprint(self) -> str:
        """See `Platform.fingerprint`."""
        return self.name

    async def build(self, code: Code, out: Path, run: Run) -> None:
        """Make the jar, or find it: the only one of the package, under any name."""
        if "build.gradle" in code.names:
            tasks = ("build", "shadowJar", "-x", "test")
            await run("gradle", "--no-daemon", "--console=plain", *tasks, cwd=code.source)
        elif "pom.xml" in code.names:
            await run("mvn", "-B", "-q", "-DskipTests", "package", cwd=code.source)
        else:
            shutil.copy(self._only_jar(code), out / JAR)
            return
        if not self.is_ready(code):
            raise BuildFailed(
                f"the build made none of {', '.join(_MADE.values())}; let it name its jar so"
            )

    def recipe(self, code: Code, images: Images) -> Recipe:
        """See `Platform.recipe`; an image without Fabric's scripts runs prebuilt jars only."""
        return Recipe(
            builder=images.java,
            script=_BUILD,
            runtime=images.java,
            target=f"{_HOME}/chaincode",
            command=("/bin/sh", "-c", _START, PEER_ADDRESS),
            probe=BASH_PROBE,
            offline=not code.names & _MADE.keys(),
        )

    def _only_jar(self, code: Code) -> Path:
        jars = [name for name in code.names if "/" not in name and name.endswith(".jar")]
        if len(jars) != 1 and JAR not in jars:
            raise BuildFailed(
                "the package holds no build.gradle, no pom.xml and not one jar: add "
                f"{JAR} with all dependencies in it"
            )
        return code.source / (JAR if JAR in jars else jars[0])
