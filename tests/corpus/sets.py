"""The set of the live proofs: `market`, with room for few instruments."""

from __future__ import annotations

from dataclasses import replace

from feature_repo.market import market

MOST = 40
"""Runs of each stream and lane."""
capped = replace(market, name="capped", max_entities=MOST)
