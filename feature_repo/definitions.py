"""What ``feast apply`` finds: the objects of every served set, as variables of this module.

Feast collects variables, not lists, hence the update of ``globals``. The past is in tables where
the environment has the URL of a database, as for live flows (``RIFFLE_DATABASE__URL``, or
``RIFFLE_DATABASE__URL_FILE``; ``RIFFLE_DATABASE__NAMESPACE``), and else in the gold dataset: where
``RIFFLE_GOLD`` says, from the root of the checkout, ``out/gold`` by default.
"""

from __future__ import annotations

import os
from pathlib import Path

from feature_repo.feast_objects import all_objects
from feature_repo.sets import SERVED
from feature_repo.store import told_database

GOLD = Path(__file__).resolve().parents[1] / os.environ.get("RIFFLE_GOLD", "out/gold")

DATABASE = told_database()

globals().update(all_objects(SERVED, GOLD, DATABASE.schema if DATABASE else None))
