"""Every case of the corpus meets its fate, whatever stands beside it."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.batch import NO_CLOCK_NS, Samples
from operators.dead_letters import Reason
from operators.kernels.hashing import hash_names
from tests.corpus import json_cases, row_cases, text_cases, time_cases
from tests.corpus.cases import ARRIVAL_MS, LIMIT_BYTES, MS_NS, STREAMS, Case, encoded
from tests.corpus.mutations import is_json_object, mutated
from tests.corpus.reading import Fate, decoder, fates, messages

FAMILIES = {
    "json": json_cases.cases, "text": text_cases.cases, "row": row_cases.cases,
    "time": time_cases.cases,
}  # fmt: skip
CASES: dict[str, list[Case]] = {name: list(cases()) for name, cases in FAMILIES.items()}
EVERY = [case for cases in CASES.values() for case in cases]
SYNTAX = frozenset({Reason.MALFORMED, Reason.NOT_UTF8, Reason.TOO_DEEP, Reason.DUPLICATE_KEY})
MUTATED = 20_000
PATIENCE_S = 2.0
"""The largest case takes some ms; more than this is a hang."""


def of_stream(stream: str) -> list[Case]:
    return [case for case in EVERY if case.stream == stream]


def decoded(stream: str, values: Sequence[bytes | None]) -> list[Fate]:
    sent = messages(values)
    return fates(decoder(stream).decode(sent, "0", NO_CLOCK_NS), sent)


@pytest.fixture(scope="module")
def alone() -> dict[str, Fate]:
    """The fate of each case when nothing stands beside it."""
    found = {}
    decoded("bars", [encoded()])  # loads and compiles what the first message needs
    for case in EVERY:
        start_s = time.perf_counter()
        (found[case.name],) = decoded(case.stream, [case.value])
        took_s = time.perf_counter() - start_s
        assert took_s < PATIENCE_S, f"{case.name} took {took_s:.1f} s"
    return found


def test_cases_have_names_of_their_own() -> None:
    assert len({case.name for case in EVERY}) == len(EVERY) > 3_000


@pytest.mark.parametrize("family", CASES)
def test_every_case_meets_its_fate(family: str, alone: dict[str, Fate]) -> None:
    wrong = {
        case.name: (alone[case.name].reason, sorted(map(str, case.fates)))
        for case in CASES[family]
        if alone[case.name].reason not in case.fates
    }
    assert wrong == {}


@pytest.mark.parametrize("stream", STREAMS)
def test_a_row_that_is_used_holds_what_was_sent(stream: str) -> None:
    known = STREAMS[stream]
    for case in of_stream(stream):
        if case.fates != {None} or not case.holds:
            continue
        batch = decoder(stream).decode(messages([case.value]), "0", NO_CLOCK_NS).batch
        assert batch.arrival_ns is not None
        assert batch.arrival_ns.tolist() == [ARRIVAL_MS * MS_NS]
        for column, value in case.holds.items():
            if column == known.entity:
                assert batch.keys.strings() == [value], case.name
            elif column == known.series:
                assert batch.series is not None
                assert batch.series.strings() == [value], case.name
            elif column == "ts":
                assert batch.ts_ns.tolist() == [value * MS_NS], case.name
            else:
                found = batch.columns[column]
                assert not isinstance(found, Samples)
                assert found.tolist() == [value], case.name
                assert not np.signbit(found[0]) or value != 0, case.name


@pytest.mark.parametrize("stream", STREAMS)
def test_a_message_is_read_alike_whatever_stands_beside_it(
    stream: str, alone: dict[str, Fate]
) -> None:
    cases = of_stream(stream)
    rng = random.Random(5)
    for _ in range(3):
        rng.shuffle(cases)
        # Huge messages between all others would only make this slow.
        for size in (7, 400):
            for start in range(0, len(cases), size):
                part = cases[start : start + size]
                found = decoded(stream, [case.value for case in part])
                assert found == [alone[case.name] for case in part]


def test_texts_as_ids_are_told_apart() -> None:
    names = [name for name in text_cases.NAMES.values() if not name.lstrip("-").isdigit()]
    sent = messages([encoded("news", event_id=name) for name in names])
    batch = decoder("news").decode(sent, "0", NO_CLOCK_NS).batch
    ids = batch.columns["event_id"]
    assert not isinstance(ids, Samples)
    assert len(set(ids.tolist())) == len(set(names))
    assert set(ids.tolist()) == set(hash_names(names).tolist())


def test_two_halves_of_a_message_are_two_dead_letters() -> None:
    bar = encoded()
    for cut in range(1, len(bar)):
        halves = decoded("bars", [bar, bar[:cut], bar[cut:], bar])
        assert [fate.reason is None for fate in halves] == [True, False, False, True]
        assert halves[0] == halves[3]


def test_what_would_close_or_open_a_list_of_messages_does_not_reach_its_neighbours() -> None:
    bar = encoded()
    (wanted,) = decoded("bars", [bar])
    for glue in (
        b"]", b"[", b"],[", b"},{", b"}", b"{", b",", b"\n", b'"', b"\\", b'"}', b"/*", b"*/",
        b"//", b"\0", b"\xff", b"\xed\xa0\x80", b'{"open":"', b'":1}', b"null", b"\r\n", b"\x1e",
    ):  # fmt: skip
        found = decoded("bars", [bar, glue, bar, bar + glue, bar, glue + bar, glue, glue, bar])
        assert [found[index] for index in (0, 2, 4, 8)] == [wanted] * 4, glue
        assert None not in {found[index].reason for index in (1, 6, 7)}, glue


def test_changed_messages_are_told_of_once_and_never_taken_for_what_they_are_not() -> None:
    for seed, stream in enumerate(STREAMS):
        sound = [case.value for case in of_stream(stream) if case.value and case.fates == {None}]
        plain = [value for value in sound if len(value) < 500]
        values = list(mutated(plain, MUTATED // len(STREAMS), seed))
        found = decoded(stream, values)
        for value, fate in zip(values, found, strict=True):
            readable = is_json_object(value)
            assert readable or fate.reason is not None, value
            # The standard library reads half a pair of surrogates, which is no text.
            assert not readable or fate.reason not in SYNTAX or b"\\u" in value, value
        assert sum(fate.reason is None for fate in found) > len(found) // 50


@given(st.data())
@settings(max_examples=150)
def test_any_mixture_in_any_cuts_gives_each_message_its_own_fate(data: st.DataObject) -> None:
    stream = data.draw(st.sampled_from(list(STREAMS)))
    cases = [
        case.value for case in of_stream(stream) if case.value is None or len(case.value) < 5_000
    ]
    anything = st.one_of(
        st.sampled_from(cases),
        st.builds(lambda seed: next(mutated([encoded(stream)], 1, seed)), st.integers(0, 2**32)),
        st.binary(max_size=60),
        st.text(max_size=30).map(lambda text: text.encode("utf-8", "surrogatepass")),
    )
    values: list[bytes | None] = data.draw(st.lists(anything, min_size=1, max_size=12))
    whole = decoded(stream, values)
    cut = data.draw(st.integers(0, len(values)))
    parts = [part for part in (values[:cut], values[cut:]) if part]
    assert [fate for part in parts for fate in decoded(stream, part)] == whole
    assert [fate for value in values for fate in decoded(stream, [value])] == whole


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_any_bytes_are_told_of_once(value: bytes) -> None:
    (fate,) = decoded("bars", [value])
    assert fate.reason is not None


def test_the_clock_moves_with_what_was_read_and_not_with_what_it_says() -> None:
    stamps = [ARRIVAL_MS, ARRIVAL_MS + 7, ARRIVAL_MS + 9]
    for case in of_stream("bars"):
        if case.value is not None and len(case.value) > LIMIT_BYTES // 8:
            continue
        sent = messages([encoded(), case.value, case.value], stamps)
        clock_ns = decoder("bars").decode(sent, "0", NO_CLOCK_NS).batch.clock_ns
        assert clock_ns == stamps[-1] * MS_NS, case.name
