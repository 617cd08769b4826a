"""The process of one contender: prepares its job, then runs it as often as it is told.

Answers go to standard output, one line each; whatever else is printed goes to standard error.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from typing import Any

import numpy as np

from benchmarks.contest import Job


def main(told: str) -> None:
    """Serves until the input ends."""
    spec: dict[str, Any] = json.loads(told)
    os.sched_setaffinity(0, {spec["core"]})
    answers, sys.stdout = sys.stdout, sys.stderr
    module, _, function = spec["job"].partition(":")
    job: Job = getattr(importlib.import_module(module), function)(**spec["settings"])
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        command, _, path = line.strip().partition(" ")
        if command == "run":
            job.prepare()
            gc.collect()
            start = time.perf_counter()
            job.run()
            answers.write(f"{time.perf_counter() - start!r}\n")
        else:
            np.savez(path, **job.outputs())  # type: ignore[arg-type]
            answers.write("saved\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
