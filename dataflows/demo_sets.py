"""The demo's own feature sets: `machine` and `asset` at the rate of its stations.

A module like this is where your own sets live; the command line finds them as ``module:attribute``,
such as ``dataflows.demo_sets:machine_50hz``.
"""

from __future__ import annotations

from dataclasses import replace

from dataflows.demo_data import READINGS_RATE_HZ
from feature_repo.machine import asset_over, machine_at

machine_50hz = replace(machine_at(READINGS_RATE_HZ), name="machine_50hz")
asset_50hz = replace(asset_over(machine_50hz), name="asset_50hz")
