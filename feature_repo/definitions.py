"""What ``feast apply`` finds: the objects of every served set, as variables of this module.

Feast collects variables, not lists, hence the update of ``globals``. The gold dataset is where the
environment variable ``RIFFLE_GOLD`` says, from the root of the checkout; ``out/gold`` by default.
"""

from __future__ import annotations

import os
from pathlib import Path

from feature_repo.feast_objects import all_objects
from feature_repo.sets import SERVED

GOLD = Path(__file__).resolve().parents[1] / os.environ.get("RIFFLE_GOLD", "out/gold")

globals().update(all_objects(SERVED, GOLD))
