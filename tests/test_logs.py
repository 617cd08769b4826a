"""What a process logs: readable for programs, harmless for people, silent about secrets."""

from __future__ import annotations

import io
import json
import logging
import threading
import time
import urllib.parse
import warnings
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer
from hypothesis import given
from hypothesis import strategies as st

from dataflows import logs
from dataflows.logs import JsonLines, Repeats, Secrets, TextLines, set_up_logs
from dataflows.settings import SettingsError
from sources.kafka_client import Connection

CANARY = "c4nary-S3cret/+ü\"'"
HOSTILE = 'AAPL\n{"level":"critical"}\r\x1b[2J\x00\u202e\u2028\x85\x7f'


@pytest.fixture
def lines(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """Where the process logs, as JSON, or in the form of the test's parameter."""
    root = logging.getLogger()
    before = (list(root.handlers), root.level, threading.excepthook, logging.raiseExceptions)
    stream = io.StringIO()
    set_up_logs([CANARY], getattr(request, "param", "json"), "debug", stream)
    yield stream
    logging.captureWarnings(capture=False)
    root.handlers[:], threading.excepthook, logging.raiseExceptions = before[0], *before[2:]
    root.setLevel(before[1])


both = pytest.mark.parametrize("lines", ["json", "text"], indirect=True)
logger = logging.getLogger("riffle.test")


def told(lines: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in lines.getvalue().splitlines()]


def test_an_event_is_an_object_with_its_fields(lines):
    logger.warning("lane %s lags", "03", extra={"topic": "bars", "lag": 7, "ok": None})
    (said,) = told(lines)
    assert str(said.pop("time")).endswith("Z")
    assert said == {
        "level": "warning", "logger": "riffle.test", "event": "lane 03 lags",
        "topic": "bars", "lag": 7, "ok": None,
    }  # fmt: skip


@pytest.mark.parametrize("lines", ["text"], indirect=True)
def test_people_get_a_line(lines):
    logger.info("ready", extra={"lag": 7})
    line = lines.getvalue()
    assert line.endswith("Z INFO     riffle.test: ready lag=7\n")


def test_a_field_cannot_pass_for_what_every_line_has(lines):
    logger.info("true", extra={"event": "false", "level": "critical", "time": "never"})
    (said,) = told(lines)
    assert (said["event"], said["level"]) == ("true", "info")
    assert said["time"] != "never"


def test_numbers_that_json_has_not_are_words(lines):
    logger.info("x", extra={"lag": float("inf"), "mean": float("nan")})
    (said,) = told(lines)
    assert (said["lag"], said["mean"]) == ("inf", "nan")


# -- forged lines ----------------------------------------------------------------------------


@both
def test_a_hostile_name_can_neither_end_a_line_nor_steer_a_terminal(lines):
    logger.error("refused %s", HOSTILE, extra={"entity": HOSTILE})
    text = lines.getvalue()
    assert text.count("\n") == 1
    assert text[:-1].isprintable()


@pytest.mark.parametrize("lines", ["text"], indirect=True)
def test_an_error_with_lines_of_its_own_cannot_forge_one(lines):
    forged = "2026-01-01T00:00:00.000Z CRITICAL riffle: all is lost"
    try:
        raise ValueError("x\n" + forged)
    except ValueError:
        logger.exception("failed")
    held = lines.getvalue().splitlines()
    assert f"    {forged}" in held
    assert forged not in held


@given(st.text())
def test_whatever_is_logged_is_one_line(text):
    record = logging.makeLogRecord({"msg": text, "name": text, "entity": text})
    for form in (JsonLines(Secrets()), TextLines(Secrets())):
        record.name = "riffle"
        assert "\n" not in form.format(record)
        assert form.format(record).isprintable()
    assert json.loads(JsonLines(Secrets()).format(record))


# -- secrets ---------------------------------------------------------------------------------

PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----"
LEAKS = [
    "value {}", "password={}", "config: {{'sasl.password': {!r}}}", "reset {}, then {}",
    "https://riffle:{}@registry/", "{}" * 3,
]  # fmt: skip


@both
@pytest.mark.parametrize("leak", LEAKS)
def test_a_secret_is_hidden_however_it_is_told(lines, leak):
    text = leak.format(CANARY, CANARY, CANARY)
    logger.info(text)
    logger.info("%s", text)
    logger.info("x", extra={"said": text, "sasl.password": CANARY, "pair": (CANARY,)})
    logger.info("x %(a)s", {"a": text})
    try:
        raise RuntimeError(text)
    except RuntimeError:
        logger.exception("failed")
    assert "c4nary" not in lines.getvalue()
    assert "[hidden]" in lines.getvalue()


@both
def test_spellings_of_a_secret_are_hidden_too(lines):
    for spelled in (json.dumps(CANARY), repr(CANARY), urllib.parse.quote(CANARY, safe="")):
        logger.info("got %s", spelled)
    assert "4nary" not in lines.getvalue()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("sasl.password=abc next", "sasl.password=[hidden] next"),
        ('{"ssl.key.pem": "a b\\"c", "x": 1}', '{"ssl.key.pem": [hidden], "x": 1}'),
        ("'client.secret': 'a b', 'x'", "'client.secret': [hidden], 'x'"),
        ("sasl.jaas.config=org.apache", "sasl.jaas.config=[hidden]"),
        ("API_KEY: k123", "API_KEY: [hidden]"),
        ("Authorization: Bearer abcdefgh.ijk", "Authorization: Bearer [hidden]"),
        ("redis://:pass@host/0", "redis://:[hidden]@host/0"),
        ("postgresql://u:p%40s@host/db?sslmode=x", "postgresql://u:[hidden]@host/db?sslmode=x"),
        (f"key is {PEM}.", "key is [hidden]."),
        ("key=AAPL partition key: MSFT tokens 5", "key=AAPL partition key: MSFT tokens 5"),
        ("127.0.0.1:9092 at 12:30:00", "127.0.0.1:9092 at 12:30:00"),
    ],
)
def test_what_looks_like_a_secret_is_hidden_and_nothing_else(text, shown):
    assert Secrets().hide(text) == shown


def test_a_line_of_a_key_is_hidden_by_itself():
    assert Secrets([PEM]).hide("MIIEvQIBADANBgkqhkiG9w0BAQEFAASC!") == "[hidden]!"


def test_what_is_too_short_is_no_secret():
    assert Secrets(["", "a", "ab c"]).hide("a cab cab") == "a c[hidden]ab"


def test_secrets_of_settings_are_found_by_their_names():
    properties = {
        "bootstrap.servers": "b:9092", "sasl.username": "u", "sasl.password": "p1",
        "ssl.key.pem": "p2", "ssl.key.password": "p3", "sasl.oauthbearer.client.secret": "p4",
        "sasl.jaas.config": "p5", "ssl.ca.location": "/ca",
    }  # fmt: skip
    assert Connection("b:9092", properties).secrets == ["p1", "p2", "p3", "p4", "p5"]


def test_long_texts_are_cut_and_long_nonsense_takes_no_time(lines):
    begun_s = time.monotonic()
    for text in ("a" * 10**6, "password" * 10**5, "password='" * 10**5, "://a:" * 10**5,
                 "-----BEGIN A" * 10**5, "Bearer " * 10**5):  # fmt: skip
        logger.info(text)
    assert time.monotonic() - begun_s < 2
    assert all(len(str(said["event"])) < logs.LONGEST + 100 for said in told(lines))


def test_what_librdkafka_says_of_its_settings_is_one_of_our_lines(lines):
    config = {
        "bootstrap.servers": "127.0.0.1:1", "group.id": "x", "debug": "conf,security,broker",
        "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN",
        "sasl.username": "riffle", "sasl.password": "c4nary-S3cret",
        "logger": logging.getLogger("riffle.kafka"),
    }  # fmt: skip
    consumer = Consumer(config)
    deadline_s = time.monotonic() + 10
    while "broker" not in lines.getvalue().lower() and time.monotonic() < deadline_s:
        consumer.poll(0.1)
    consumer.close()
    said = told(lines)
    assert {"riffle.kafka"} == {each["logger"] for each in said}
    assert "c4nary" not in lines.getvalue()


# -- repeats ---------------------------------------------------------------------------------


def test_what_repeats_itself_is_told_a_few_times_and_then_counted():
    now_s = 0.0
    repeats = Repeats(lambda: now_s)

    def tell(text: str) -> logging.LogRecord | None:
        record = logging.makeLogRecord({"msg": text, "name": "riffle", "levelno": 30})
        return record if repeats.filter(record) else None

    let = [record for i in range(100) if (record := tell(f"broker {i} is down"))]
    assert len(let) == logs.REPEATS
    assert tell("something else") is not None
    now_s = logs.WINDOW_S
    record = tell("broker 7 is down")
    assert record is not None
    assert vars(record)["repeated"] == 100 - logs.REPEATS
    record = tell("broker 7 is down")
    assert record is not None
    assert not hasattr(record, "repeated")


def test_how_often_it_was_held_back_is_in_the_line(lines):
    record = logging.makeLogRecord({"msg": "x", "repeated": 95})
    assert json.loads(JsonLines(Secrets()).format(record))["repeated"] == 95


def test_few_kinds_of_events_are_remembered():
    repeats = Repeats()
    for i in range(3 * logs.MOST_KINDS):
        repeats.filter(logging.makeLogRecord({"msg": "x" * i}))
    assert len(repeats._kinds) == logs.MOST_KINDS


# -- the rest --------------------------------------------------------------------------------


def test_events_that_cannot_be_worded_are_told_anyway(lines, capsys):
    for text, value in (("%d rows", "many"), ("%s %s", "one")):
        logger.info(text, value)
    assert [said["event"] for said in told(lines)] == ["%d rows ('many',)", "%s %s ('one',)"]
    assert capsys.readouterr().err == ""


def test_warnings_and_errors_of_threads_are_told(lines):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old setting", UserWarning, stacklevel=1)

    def fail() -> None:
        raise ValueError(CANARY)

    thread = threading.Thread(target=fail, name="lane 03")
    thread.start()
    thread.join()
    warned, ended = told(lines)
    assert "old setting" in str(warned["event"])
    assert ended["event"] == "thread lane 03 ended by an error"
    assert ended["error"] == "ValueError: [hidden]"


def test_the_environment_chooses_form_and_level(monkeypatch, lines):
    monkeypatch.setenv("RIFFLE_LOG", "text")
    monkeypatch.setenv("RIFFLE_LOG_LEVEL", "ERROR")
    stream = io.StringIO()
    set_up_logs(stream=stream)
    logger.warning("not told")
    logger.error("told")
    assert stream.getvalue().endswith("ERROR    riffle.test: told\n")
    assert lines.getvalue() == ""


@pytest.mark.parametrize(
    ("form", "level", "words"),
    [
        ("xml", "info", "RIFFLE_LOG: must be one of json, text, found 'xml'"),
        ("json", "loud", "RIFFLE_LOG_LEVEL: must be one of debug, .*, found 'loud'"),
    ],
)
def test_other_settings_are_refused(form, level, words):
    with pytest.raises(SettingsError, match=words):
        set_up_logs((), form, level)
