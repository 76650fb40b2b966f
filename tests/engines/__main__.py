"""``python -m tests.engines``: run the engines by hand.

Room:      tests.engines
Loop:      none; it blocks
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.engines.engine import ENGINES, Engine, EngineBroken
from tests.engines.rootfs import Unavailable


def main() -> int:
    """Start or remove the tests' engines, or say how to reach them."""
    parser = argparse.ArgumentParser(prog="python -m tests.engines", description=main.__doc__)
    parser.add_argument("action", choices=["up", "down", "env", "images"])
    parser.add_argument("engine", nargs="*", help=f"{', '.join(ENGINES)}; all by default")
    arguments = parser.parse_args()
    unknown = set(arguments.engine) - set(ENGINES)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    engines = [ENGINES[name]() for name in arguments.engine or ENGINES]
    match arguments.action:
        case "env":
            for engine in engines:
                print(f"export TRIOPEER_TEST_{engine.name.upper()}={engine.endpoint}")
        case "images":
            for engine in engines:
                for kind, image in engine.images.items():
                    print(f"{engine.name}\t{kind}\t{image}")
        case "up":
            return _together(Engine.up, engines)
        case "down":
            return _together(Engine.down, engines)
    return 0


def _together(action: Callable[[Engine], None], engines: list[Engine]) -> int:
    def run(engine: Engine) -> bool:
        began = time.monotonic()
        try:
            action(engine)
        except (Unavailable, EngineBroken) as exc:
            print(f"{engine.name}: {exc}", file=sys.stderr)
            return False
        print(f"{engine.name}: {action.__name__} in {time.monotonic() - began:.1f} s")
        return True

    with ThreadPoolExecutor() as threads:
        return int(not all(list(threads.map(run, engines))))


if __name__ == "__main__":
    sys.exit(main())
