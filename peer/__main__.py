"""``python -m peer`` and the console script.

Room:      peer   (imports peer.cli only)
Loop:      none
"""

from __future__ import annotations

import sys

from peer.cli import run


def main() -> None:
    """Run the command line of this process and exit."""
    program = sys.argv[0]
    sys.exit(run(program="python -m peer" if program.endswith("__main__.py") else "triopeer"))


if __name__ == "__main__":
    main()
