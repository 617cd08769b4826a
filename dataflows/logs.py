"""What a process logs: a line an event, as JSON for programs or as text for a terminal.

Names and values in an event may come from a stranger's message, and texts of a client library may
quote its settings. So nothing in a line can end it or steer a terminal, what looks like a secret is
hidden, and what repeats itself is told a few times and then counted.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import sys
import threading
import time
import traceback
import urllib.parse
from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Literal, TextIO, get_args

from dataflows.settings import SettingsError

Form = Literal["json", "text"]
FORM, LEVEL = "RIFFLE_LOG", "RIFFLE_LOG_LEVEL"
"""Environment variables of the form and the least level that is told."""
LEVELS = ("debug", "info", "warning", "error", "critical")

MASK = "[hidden]"
LONGEST = 8192
"""Characters of a text beyond which it is cut; a traceback of ours has fewer."""
SHORTEST_SECRET = 4
"""A shorter one is no secret, and hiding it would make holes in every other word."""

REPEATS, WINDOW_S, MOST_KINDS = 5, 60.0, 1000
"""An event is told so often in so many seconds, and of so many kinds of events this is known."""

SECRET_NAME = r"""
    passwords? | passwd | passphrase | secrets? | tokens? | credentials? | jaas | pem
    | (?:api|access|account|private|signing|ssl) [._-]? key
"""
NAME = re.compile(rf"(?ix) (?: {SECRET_NAME} ) (?: [._-]? (?:config|pem|value|password) )* \Z")
"""The end of the name of a field or setting that is hidden."""
NAMED = re.compile(
    rf"""(?ix) (?P<name> (?: {SECRET_NAME} ) [\w.]{{0,40}} ["']? \s{{0,4}} [:=] \s{{0,4}})
    (?: "(?:[^"\\]|\\.)*"? | '(?:[^'\\]|\\.)*'? | [^\s,;"'}}\])]+ )"""
)
"""`password=...`, `"sasl.password": "..."` and their like, wherever they stand in a text."""
BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}")
IN_ADDRESS = re.compile(r"(://[^/\s:@]*:)[^@\s/]+@")
BLOCK = re.compile(r"-----BEGIN [A-Z ]+-----.*?(?:-----END [A-Z ]+-----|\Z)", re.DOTALL)

STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "repeated"}
"""Attributes of every record; what a record has beyond them are the fields of its event."""


class Secrets:
    """Hides secrets in texts: those that it was given, and what looks like one.

    Args:
        values: secrets, however they may be quoted.

    >>> Secrets(["hunter2"]).hide("user=me password=abcd, again hunter2")
    'user=me password=[hidden], again [hidden]'
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        spelled: set[str] = set()
        for value in values:
            # A key of many lines is known by each of them, since a text may quote one alone.
            for secret in (value, *value.splitlines()):
                if len(secret.strip()) >= SHORTEST_SECRET and not secret.startswith("-----"):
                    spelled |= _spellings(secret.strip())
        # The longest first, lest a secret within another one leave the rest of it.
        ordered = sorted(spelled, key=lambda text: (-len(text), text))
        self._given = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def hide(self, text: str) -> str:
        """Gives a text without them."""
        if self._given is not None:
            text = self._given.sub(MASK, text)
        if "-----BEGIN" in text:
            text = BLOCK.sub(MASK, text)
        text = IN_ADDRESS.sub(rf"\1{MASK}@", text)
        text = NAMED.sub(rf"\g<name>{MASK}", text)
        return BEARER.sub(rf"\1 {MASK}", text)


def _spellings(secret: str) -> set[str]:
    """How a secret may stand in a text."""
    return {
        secret,
        repr(secret)[1:-1],
        json.dumps(secret)[1:-1],
        urllib.parse.quote(secret, safe=""),
        urllib.parse.quote_plus(secret),
        base64.b64encode(secret.encode()).decode(),
    }


def is_secret(name: str) -> bool:
    """Whether a field or a setting of this name is hidden.

    >>> is_secret("sasl.password"), is_secret("ssl.key.pem"), is_secret("key"), is_secret("keys")
    (True, True, False, False)
    """
    return NAME.search(name) is not None


def printable(text: str) -> str:
    r"""Spells out what would end a line, move a cursor or turn the direction of writing.

    >>> printable("AAPL\n{} \x1b[31m \u202e \u00fc")
    'AAPL\\n{} \\x1b[31m \\u202e ü'
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


class Repeats:
    """Lets an event through a few times a minute, and counts the others.

    Args:
        now_s: a clock that never goes back.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._kinds: OrderedDict[tuple[str, int, str], list[float]] = OrderedDict()
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to tell of an event; one that was held back is told with the next of its kind."""
        # Texts that differ in numbers are of one kind.
        kind = (record.name, record.levelno, re.sub(r"\d+", "0", str(record.msg)))
        now_s = self._now_s()
        with self._lock:
            since_s, told, held = self._kinds.pop(kind, (now_s, 0.0, 0.0))
            if now_s - since_s >= WINDOW_S:
                since_s, told = now_s, 0.0
            let = told < REPEATS
            if let and held:
                record.repeated = int(held)
            self._kinds[kind] = [since_s, told + let, 0.0 if let else held + 1]
            if len(self._kinds) > MOST_KINDS:
                self._kinds.popitem(last=False)
        return let


class _Formatter(logging.Formatter):
    """What both forms share: an event in words, its fields, and its error."""

    def __init__(self, secrets: Secrets) -> None:
        super().__init__()
        self._secrets = secrets

    def shown(self, value: object) -> str:
        text = str(value)
        # Only so much is looked through, and cut behind it, lest a secret be cut in two.
        shown = self._secrets.hide(text[: 2 * LONGEST])
        if len(text) <= 2 * LONGEST and len(shown) <= LONGEST:
            return shown
        return f"{shown[:LONGEST]}... ({len(text)} characters)"

    def event(self, record: logging.LogRecord) -> str:
        try:
            return self.shown(record.getMessage())
        except (TypeError, ValueError):
            # A wrong format is no reason to lose an event.
            return self.shown(f"{record.msg} {record.args}")

    def fields(self, record: logging.LogRecord) -> dict[str, object]:
        found: dict[str, object] = {}
        for name, value in vars(record).items():
            if name in STANDARD:
                continue
            if is_secret(name):
                found[name] = MASK
            elif value is None or isinstance(value, bool | int | float):
                found[name] = value
            else:
                found[name] = self.shown(value)
        repeated = getattr(record, "repeated", 0)
        return {**found, "repeated": repeated} if repeated else found

    def trace(self, record: logging.LogRecord) -> str:
        held = record.exc_info
        if not held or held[1] is None:
            return ""
        lines = "".join(traceback.format_exception(*held)).rstrip()
        # The error stands at the end.
        shown = self._secrets.hide(lines[-8 * LONGEST :])
        return shown if len(shown) <= LONGEST else f"...{shown[-LONGEST:]}"


def _time(record: logging.LogRecord) -> str:
    stamp = datetime.fromtimestamp(record.created, UTC)
    return stamp.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class JsonLines(_Formatter):
    """An object a line: time, level, logger, event, and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Gives the line; whatever is not ASCII is escaped, and so are all control characters."""
        said: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": self.event(record),
        }
        # A field can't take the place of what every line has.
        said.update({n: v for n, v in self.fields(record).items() if n not in said})
        if trace := self.trace(record):
            said["error"] = self.shown(trace.splitlines()[-1])
            said["trace"] = trace
        return json.dumps(_finite(said))


class TextLines(_Formatter):
    """A line for people."""

    def format(self, record: logging.LogRecord) -> str:
        """Gives the line, and those of the traceback."""
        fields = "".join(
            f" {printable(name)}={printable(str(value))}"
            for name, value in self.fields(record).items()
        )
        event = printable(self.event(record))
        line = f"{_time(record)} {record.levelname:<8} {record.name}: {event}{fields}"
        # Set in, so that no line of a message passes for one of the log.
        trace = "".join(f"\n    {printable(each)}" for each in self.trace(record).split("\n"))
        return line + trace if record.exc_info else line


def _finite(said: dict[str, object]) -> dict[str, object]:
    """JSON has no infinities."""
    return {
        name: str(value) if isinstance(value, float) and value - value != 0 else value
        for name, value in said.items()
    }


def set_up_logs(
    secrets: Iterable[str] = (),
    form: str | None = None,
    level: str | None = None,
    stream: TextIO | None = None,
) -> None:
    """Makes this process log in its form; what logged otherwise before does so no more.

    Args:
        secrets: values that must never be told.
        form: ``json`` or ``text``; by default what the environment says, or text on a terminal.
        level: the least level that is told; by default what the environment says, or ``info``.
        stream: where to; standard error by default.

    Raises:
        SettingsError: for another form or level.
    """
    stream = stream or sys.stderr
    form = form or os.environ.get(FORM) or ("text" if stream.isatty() else "json")
    level = (level or os.environ.get(LEVEL) or "info").lower()
    for name, value, allowed in ((FORM, form, get_args(Form)), (LEVEL, level, LEVELS)):
        if value not in allowed:
            msg = f"{name}: must be one of {', '.join(allowed)}, found {value!r}"
            raise SettingsError(msg)
    hidden = Secrets(secrets)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines(hidden) if form == "json" else TextLines(hidden))
    handler.addFilter(Repeats())
    root = logging.getLogger()
    for other in list(root.handlers):
        root.removeHandler(other)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    # Else an event that can't be written would be printed as it is, secrets and all.
    logging.raiseExceptions = False
    threading.excepthook = _thread_ended


def _thread_ended(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is None or args.exc_type is SystemExit:
        return
    name = args.thread.name if args.thread else "?"
    held = (args.exc_type, args.exc_value, args.exc_traceback)
    logging.getLogger("riffle").error("thread %s ended by an error", name, exc_info=held)
