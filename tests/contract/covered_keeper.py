"""Run the keeper under coverage, which its forked children leave by exec and `_exit`."""

import os
import runpy
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
runpy.run_path(str(root / "runtimes/process/keeper.py"), run_name="__main__")
measurement.stop()
measurement.save()
