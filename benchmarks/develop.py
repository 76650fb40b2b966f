"""What the author of a chaincode waits for: the first prompt, and the answer of changed code.

Room:      benchmarks   (drives ``python -m peer dev`` on a pseudo-terminal, as a person would)
Loop:      none
Lifetime:  one process
Fabric:    none

Not pinned: what is measured is work of several processes. From the start of the program to the
prompt behind which a call is answered at once; and from the writing of a file to the answer of what
was written.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from measure import Row, Samples, main

from tests.e2e.pseudo_terminal import on_terminal

EXAMPLE = Path(__file__).parents[1] / "examples" / "asset_transfer"
PROMPT = "asset_transfer> "
FIRST = "dev: from nothing to the prompt"
CHANGED = "dev: file change to the new code's answer"


def rows(quick: bool) -> list[Row]:
    """Measure starts, and changes in each."""
    samples = Samples()
    for _ in range(2 if quick else 5):
        measure(samples, changes=2 if quick else 5)
    return [
        samples.row(FIRST, "ms", scale=1e3),
        samples.percentile(FIRST, 99, "ms"),
        samples.row(CHANGED, "ms", scale=1e3),
        samples.percentile(CHANGED, 99, "ms"),
    ]


def measure(samples: Samples, changes: int) -> None:
    """Take one sample of the first, and several of the other."""
    with tempfile.TemporaryDirectory() as directory:
        code = shutil.copytree(EXAMPLE, Path(directory, EXAMPLE.name))
        program = code / "chaincode.py"
        text = program.read_text()
        began = time.monotonic()
        with on_terminal(sys.executable, "-m", "peer", "dev", code, env=os.environ) as screen:
            screen.expect(PROMPT)
            samples.add(FIRST, time.monotonic() - began)
            screen.type("invoke put k v\n")
            screen.expect("VALID")
            for number in range(changes):
                screen.expect(PROMPT)
                answer = f"change {number} of "
                began = time.monotonic()
                changed = f"return {answer!r} + value.decode()"
                program.write_text(text.replace("return value.decode()", changed))
                screen.expect("ready")
                screen.type("query get k\n")
                screen.expect(f"^{answer}v$")
                samples.add(CHANGED, time.monotonic() - began)
            screen.type("\x03")
            screen.ended()


if __name__ == "__main__":
    main(rows)
