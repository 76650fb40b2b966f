"""Run the keeper under coverage, which its forked children leave by exec and `_exit`."""

import os
from pathlib import Path
from typing import Any

import coverage

root = Path(__file__).parents[2]
os.chdir(root)
measurement = coverage.Coverage(config_file=str(root / "pyproject.toml"), data_suffix=True)


def saving(leave: Any) -> Any:
    def save_and_leave(*args: Any) -> None:
        measurement.save()
        leave(*args)

    return save_and_leave


os._exit = saving(os._exit)
os.execvpe = saving(os.execvpe)
measurement.start()

from runtimes.process import keeper  # noqa: E402

keeper.main()
measurement.stop()
measurement.save()
