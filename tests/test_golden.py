"""The bits of the shipped sets do not change without a word."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from feature_repo.sets import ALL
from tests.golden import FOLDER, SETS, as_hex, computed, differences, from_hex, stored


@pytest.mark.parametrize("name", SETS)
def test_every_shipped_set_gives_its_golden_bits(name):
    wrong = differences(name, computed(name), stored(name))
    assert not wrong, wrong


def test_every_shipped_set_has_a_file_and_every_file_a_set():
    assert {path.stem for path in FOLDER.glob("*.json")} == set(SETS) == set(ALL)


@pytest.mark.parametrize("name", SETS)
def test_every_feature_has_a_value_in_its_file(name):
    vectors = [vector for *_, vector in stored(name)["vectors"]]
    for feature in SETS[name].feature_exprs:
        assert any(vector[feature] is not None for vector in vectors), feature


def nudged(golden: dict[str, Any], by: float) -> dict[str, Any]:
    """The file with the first value of a feature moved by some share of itself."""
    *identity, vector = golden["vectors"][-1]
    value = from_hex(vector["ret_1"])
    moved = math.nextafter(value, math.inf) if by == 0.0 else value * (1 + by)
    changed = {**vector, "ret_1": as_hex(moved)}
    return {**golden, "vectors": [*golden["vectors"][:-1], [*identity, changed]]}


def test_one_other_bit_asks_for_a_new_bits_version():
    wrong = differences("market", nudged(stored("market"), 0.0), stored("market"))
    assert "ret_1" in wrong
    assert "bump operators.kernels.BITS_VERSION" in wrong
    assert "python -m tests.golden --write" in wrong
    assert "CHANGELOG" in wrong


def test_another_bit_in_a_vector_that_is_not_written_out_is_seen():
    golden = stored("market")
    assert "other than those written out" in differences("market", {**golden, "sha256": ""}, golden)


def test_a_bumped_version_asks_for_new_files():
    golden = stored("market")
    found = {**golden, "bits_version": golden["bits_version"] + 1}
    assert "Regenerate" in differences("market", found, golden)


def test_another_cpu_architecture_may_differ_by_rounding_and_no_more():
    golden = stored("market")
    elsewhere = {**golden, "architecture": "another", "sha256": ""}
    assert not differences("market", nudged(elsewhere, 0.0), golden)
    assert "ret_1" in differences("market", nudged(elsewhere, 1e-9), golden)
    assert "vectors" in differences("market", {**elsewhere, "count": 1}, golden)


@pytest.mark.parametrize("value", [0.1, -0.0, 5e-324, 1e300, math.inf])
def test_hexadecimal_digits_hold_every_bit(value):
    back = from_hex(as_hex(value))
    assert np.float64(back).tobytes() == np.float64(value).tobytes()
    assert as_hex(math.nan) is None
