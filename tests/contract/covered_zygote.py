"""Run the zygote under coverage, which its forks take along, or leave by `_exit`."""

import atexit
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import coverage

root = Path(__file__).parents[2]
sys.path[0] = str(root / "runtimes/process")
os.chdir(root)
measurement = coverage.Coverage(config_file=str(root / "pyproject.toml"), data_suffix=True)


def saving(leave: Any) -> Any:
    def save_and_leave(*args: Any) -> None:
        measurement.save()
        leave(*args)

    return save_and_leave


os._exit = saving(os._exit)
atexit.register(measurement.save)
measurement.start()
runpy.run_path(str(root / "runtimes/process/zygote.py"), run_name="__main__")
