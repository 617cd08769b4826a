"""Names that hurt: what people, programs and attackers put where a name should be.

A name is a plain value everywhere: it is used as it stands or refused, and never read as anything.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping

from operators.dead_letters import Reason
from tests.corpus.cases import Case, encoded, refused, used

SOUND_LETTERS = frozenset(string.ascii_letters + string.digits + "._:-/")
LONGEST_NAME = 64

HARMLESS: Mapping[str, str] = {
    "one_letter": "A",
    "one_digit": "0",
    "zeros": "000",
    "minus_one": "-1",
    "a_number": "1e5",
    "whole_number": "9007199254740993",
    "hex": "0x1F",
    "null": "null",
    "none": "None",
    "not_a_number": "NaN",
    "infinity": "-Infinity",
    "yes": "yes",
    "true": "true",
    "undefined": "undefined",
    "nil": "NIL",
    "proto": "__proto__",
    "constructor": "constructor",
    "init": "__init__",
    "class": "__class__.__mro__",
    "up_a_folder": "../../../etc/passwd",
    "root": "/",
    "dot": ".",
    "dots": "..",
    "device": "/dev/null",
    "drive": "C:/boot.ini",
    "windows_device": "CON",
    "port": "COM1",
    "option": "-rf",
    "long_option": "--help",
    "url": "http://127.0.0.1:80/a",
    "file_url": "file:///etc/shadow",
    "jndi": "jndi:ldap://a/b",
    "data_url": "data:text/html",
    "sql_word": "SELECT",
    "table": "DROP",
    "redis_word": "FLUSHALL",
    "redis_key": "user:1:token",
    "kafka_internal": "__consumer_offsets",
    "dashes": "----",
    "sql_comment": "--",
    "colons": ":::",
    "longest": "L" * LONGEST_NAME,
    "time": "2025-01-01T00:00:00Z",
    "a_label_of_ours": "__name__",
    "dotted_quad": "0.0.0.0",
}
"""These are made of letters that a name may have."""

NAUGHTY: Mapping[str, str] = {
    # of no letters, or too many
    "blank": " ",
    "blanks": "   ",
    "tab": "\t",
    "line_feed": "\n",
    "no_break_space": "\u00a0",
    "blank_around": " AAPL ",
    "ideographic_space": "\u3000",
    "zero_width": "\u200b",
    "joiner": "A\u200dB",
    "mark_in_the_middle": "A\ufeffB",
    "one_too_long": "L" * (LONGEST_NAME + 1),
    "very_long": "L" * 100_000,
    "long_and_wide": "\U0001f600" * 20_000,
    # control characters
    "nul": "A\0B",
    "only_nul": "\0",
    "nul_at_the_end": "AAPL\0",
    "bell": "\a",
    "escape": "\x1b",
    "delete": "A\x7f",
    "colour": "\x1b[31mred\x1b[0m",
    "clear_screen": "\x1b[2J\x1b[H",
    "title": "\x1b]0;owned\a",
    "backspaces": "good\b\b\b\bevil",
    "return": "good\revil",
    "next_line": "A\u0085B",
    "line_separator": "A\u2028B",
    "all_controls": "".join(map(chr, range(32))),
    # scripts, directions and looks
    "umlaut": "M\u00fcller",
    "sharp_s": "Stra\u00dfe",
    "dotless_i": "\u0131stanbul",
    "greek": "\u0391\u0391PL",
    "cyrillic_a": "\u0410APL",
    "full_width": "\uff21\uff21\uff30\uff2c",
    "han": "\u80a1\u7968",
    "kana": "\u30a2\u30c3\u30d7\u30eb",
    "hangul": "\uc8fc\uc2dd",
    "thai": "\u0e2b\u0e38\u0e49\u0e19",
    "arabic": "\u0633\u0647\u0645",
    "hebrew": "\u05de\u05e0\u05d9\u05d4",
    "right_to_left_override": "AAPL\u202egpj.exe",
    "isolate": "\u2066AAPL\u2069",
    "mark": "\u200fAAPL",
    "stacked_marks": "A" + "\u0300\u0301\u0302\u0303" * 200,
    "decomposed": "Mu\u0308ller",
    "emoji": "\U0001f4c8",
    "family": "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
    "flag": "\U0001f1e9\U0001f1ea",
    "skin_tone": "\U0001f44d\U0001f3fe",
    "digits_of_another_script": "\u0661\u0662\u0663",
    "superscript": "10\u00b2",
    "no_character": "\uffff",
    "private_use": "\ue000",
    "last_character": "\U0010ffff",
    "replacement": "\ufffd",
    "ligature": "\ufb03",
    "dash": "A\u2014B",
    "curly": "\u201cA\u201d",
    "currency": "\u20acUR",
    # databases
    "sql_or": "' OR '1'='1",
    "sql_drop": "AAPL'; DROP TABLE feature_vectors; --",
    "sql_union": "x' UNION SELECT usename FROM pg_user --",
    "sql_sleep": "'; SELECT pg_sleep(60); --",
    "sql_quotes": "''",
    "sql_double": '"; DELETE FROM t; --',
    "sql_dollar": "$$; DROP TABLE t; $$",
    "sql_copy": "'; COPY t TO PROGRAM 'id'; --",
    "sql_like": "%_%",
    "sql_backslash": "\\'; --",
    "sql_param": "%(name)s",
    "sql_question": "?",
    "sql_number": "$1",
    "copy_end": "\\.",
    "copy_null": "\\N",
    "redis_lines": "A\r\nFLUSHALL\r\n",
    "redis_array": "*1\r\n$8\r\nFLUSHALL\r\n",
    "redis_pattern": "user:*",
    "redis_lua": "redis.call('flushall')",
    "mongo": '{"$gt": ""}',
    "duckdb": "read_csv('/etc/passwd')",
    # logs, metrics, formats, templates, shells, pages
    "forged_line": "AAPL\n2025-01-01 00:00:00 ERROR root: disk failed",
    "forged_json": 'A"}\n{"level": "error", "event": "forged"}',
    "forged_field": 'A", "level": "critical',
    "metric_label": 'A"} 1\nriffle_up{x="',
    "metric_escape": "A\\",
    "metric_comment": "\n# TYPE a counter\na 1",
    "percent_s": "%s%s%s%s",
    "percent_n": "%n%n%n",
    "percent_big": "%999999999d",
    "braces": "{0.__class__.__init__.__globals__}",
    "brace": "{",
    "brace_name": "{secret}",
    "template": "{{7*7}}",
    "dollar_brace": "${7*7}",
    "jndi_lookup": "${jndi:ldap://127.0.0.1/a}",
    "environment": "$HOME",
    "environment_brace": "${KAFKA_PASSWORD}",
    "shell_call": "$(id)",
    "backticks": "`id`",
    "shell_and": "A && id",
    "shell_or": "A || id",
    "shell_pipe": "A | cat /etc/passwd",
    "shell_semicolon": "A; id",
    "shell_redirect": "A > /tmp/x",
    "glob": "*",
    "home": "~root",
    "windows_path": "..\\..\\boot.ini",
    "percent_path": "..%2f..%2fetc",
    "query": "A?b=1&c=2",
    "fragment": "A#b",
    "script": "<script>alert(1)</script>",
    "image": '"><img src=x onerror=alert(1)>',
    "entity_file": '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>',
    "spreadsheet": "=HYPERLINK(1)",
    "spreadsheet_at": "@SUM(1)",
    "spreadsheet_plus": "+1+1",
    "comma": "A,B",
    "semicolon": "A;B",
    "quote": '"',
    "apostrophe": "'",
    "header": "A\r\nSet-Cookie: a=b",
    "python": "__import__('os').system('id')",
    "pickle": "cos\nsystem\n(S'id'\ntR.",
    "yaml": "!!python/object/apply:os.system ['id']",
    "json": '{"open": -1}',
    "regex": "(a+)+$",
    "regex_class": "[[:alpha:]]",
    "ldap": "*)(uid=*",
    "xpath": "' or ''='",
    "equals": "A=B",
}
"""These are not."""

NAMES = {**HARMLESS, **NAUGHTY}


def sound(name: str) -> bool:
    """Whether an entity may be called so."""
    return 0 < len(name) <= LONGEST_NAME and set(name) <= SOUND_LETTERS


def cases() -> Iterator[Case]:
    """Each name where an entity, a series, an id, a number, a time and a member could be."""
    for title, name in NAMES.items():
        for column, stream, reason in (
            ("instrument_id", "bars", Reason.BAD_ENTITY),
            ("channel", "readings", Reason.BAD_SERIES),
        ):
            value = encoded(stream, **{column: name})
            where = f"{title}_as_{column}"
            if sound(name):
                yield used(where, value, stream, **{column: name})
            else:
                yield refused(where, value, reason, stream)
        yield used(f"{title}_as_event_id", encoded("news", event_id=name), "news", confidence=0.75)
        yield used(f"{title}_as_side", encoded("trades", side=name), "trades", price=100.5)
        yield used(f"{title}_as_unknown_member", encoded("bars", extra=name), open=100.5)
        if name not in ROWS_HAVE:
            yield used(f"{title}_as_name_of_a_member", encoded("bars", **{name: 1}), open=100.5)
        yield refused(f"{title}_as_price", encoded("bars", open=name), Reason.WRONG_TYPE)
        yield refused(
            f"{title}_as_sentiment", encoded("news", sentiment=name), Reason.WRONG_TYPE, "news"
        )
        if title not in TIMES:
            yield refused(f"{title}_as_time", encoded("bars", ts=name), Reason.WRONG_TYPE)
        if title not in BAD_DURATION_FIRST:
            reason = Reason.BAD_DURATION if sound(name) else Reason.BAD_SERIES
            yield refused(f"{title}_as_timeframe", encoded("bars", timeframe=name), reason)


ROWS_HAVE = frozenset(
    {"ts", "open", "high", "low", "close", "volume", "instrument_id", "timeframe"}
)
TIMES = frozenset({"time", "whole_number", "minus_one", "one_digit", "zeros"})
"""Names that are times, though mostly impossible ones: see ``time_cases``."""
BAD_DURATION_FIRST = frozenset[str]()
