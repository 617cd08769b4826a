"""The grammar: what is JSON, what is not, and what only looks like it."""

from __future__ import annotations

from collections.abc import Iterator

from operators.dead_letters import Reason
from tests.corpus.cases import (
    DEEPEST,
    LIMIT_BYTES,
    ROWS,
    Case,
    either,
    encoded,
    extra,
    refused,
    spelled,
    used,
)

MALFORMED, NOT_UTF8, NOT_FINITE = Reason.MALFORMED, Reason.NOT_UTF8, Reason.NOT_FINITE
TOO_DEEP, DOUBLED = Reason.TOO_DEEP, Reason.DUPLICATE_KEY
BAR = encoded()


def cases() -> Iterator[Case]:
    """All of them."""
    for family in (
        _layout,
        _members,
        _numbers,
        _no_numbers,
        _texts,
        _encodings,
        _structure,
        _cut_short,
        _depth,
        _doubled_keys,
        _sizes,
        _tops,
        _first_fault_counts,
    ):
        yield from family()


def _layout() -> Iterator[Case]:
    yield used("plain", BAR, close=100.125)
    yield used("tight", BAR.replace(b": ", b":").replace(b", ", b","))
    for name, blank in {
        "tabs": b"\t",
        "line_feeds": b"\n",
        "returns": b"\r\n",
        "blanks": b"   ",
    }.items():
        loose = BAR.replace(b": ", blank + b":" + blank).replace(b", ", blank + b"," + blank)
        yield used(f"{name}_between_all", blank + loose + blank)
    yield used("reversed_members", b"{" + b", ".join(reversed(BAR[1:-1].split(b", "))) + b"}")
    for name, blank in {
        "form_feed": b"\f",
        "vertical_tab": b"\v",
        "nul": b"\0",
        "no_break": "\u00a0".encode(),
        "ideographic": "\u3000".encode(),
        "zero_width": "\u200b".encode(),
        "backspace": b"\b",
    }.items():
        yield refused(f"{name}_as_blank_before", blank + BAR, MALFORMED)
        yield refused(f"{name}_as_blank_after", BAR + blank, MALFORMED)
        yield refused(f"{name}_as_blank_inside", BAR.replace(b", ", b"," + blank, 1), MALFORMED)


def _members() -> Iterator[Case]:
    for name, raw in {
        "null": b"null",
        "true": b"true",
        "false": b"false",
        "zero": b"0",
        "empty_object": b"{}",
        "empty_list": b"[]",
        "object_in_list": b'[{"a": [1, {"b": null}]}]',
        "empty_text": b'""',
        "brackets_in_text": b'"}{][,:"',
        "quote_in_text": rb'"\"}\", \"open\": 5"',
        "escaped_backslash_at_end": rb'"\\"',
        "a_bar_in_text": rb'"{\"open\": -1, \"high\": -1}"',
        "members_of_a_bar": b'{"open": -1, "high": -2, "instrument_id": "~"}',
    }.items():
        yield used(f"unknown_member_{name}", extra(raw), open=100.5, high=101.75)
    yield used("member_without_a_name", extra(b"1", b'""'))
    yield used("member_with_a_blank", extra(b"1", b'" open"'), open=100.5)
    yield used("member_in_capitals", extra(b"1", b'"OPEN"'), open=100.5)
    yield used("member_longer_than_ours", extra(b"1", b'"opening"'), open=100.5)
    yield used("member_ends_like_ours", extra(b"1", b'"reopen"'), open=100.5)
    yield used("member_with_a_long_name", extra(b"1", b'"' + b"k" * 10_000 + b'"'))
    yield used(
        "a_thousand_members", extra(b"1, " + b", ".join(b'"m%d": %d' % (i, i) for i in range(1000)))
    )
    yield used("escaped_name_of_ours", BAR.replace(b'"open"', rb'"\u006fpen"'), open=100.5)
    yield used("escaped_letters", spelled("instrument_id", rb'"A\u0041PL"'))
    yield used("escaped_slash", spelled("instrument_id", rb'"A\/B"'))


def _numbers() -> Iterator[Case]:
    for raw, value in {
        b"100": 100.0,
        b"1e2": 100.0,
        b"1E2": 100.0,
        b"1e+2": 100.0,
        b"1.0e2": 100.0,
        b"10000e-2": 100.0,
        b"100.00000000000000000000000000000000000": 100.0,
        b"0.1": 0.1,
        b"0.1000000000000000055511151231257827021181583404541015625": 0.1,
        b"1e0": 1.0,
        b"9007199254740993": 9007199254740992.0,
        b"5e-324": 5e-324,
        b"1.7976931348623157e308": 1.7976931348623157e308,
        b"0": 0.0,
        b"0.0": 0.0,
        b"0e99": 0.0,
        b"123456789012345678901234567890": 123456789012345678901234567890.0,
    }.items():
        yield used(f"number_{raw.decode()}", spelled("volume", raw), volume=value)
    for raw in (b"-0", b"-0.0", b"-0e5"):
        yield used(f"number_{raw.decode()}_has_no_sign", spelled("volume", raw), volume=0.0)
    yield used("number_of_1000_digits_after_the_point", spelled("volume", b"1." + b"3" * 1000))
    yield either("number_of_400_digits", spelled("volume", b"9" * 400), NOT_FINITE)
    yield either(
        "number_of_100000_digits", spelled("volume", b"9" * 100_000), NOT_FINITE, MALFORMED
    )
    yield either("too_small_to_tell_from_0", spelled("volume", b"1e-400"), None)
    for raw in (b"1e400", b"-1e400", b"1e999999999", b"1e309"):
        yield refused(f"number_{raw.decode()}", spelled("volume", raw), NOT_FINITE)
    yield either("huge_number_in_an_unknown_member", extra(b"1e400"), None, NOT_FINITE, MALFORMED)
    yield either("huge_exponent", spelled("volume", b"1e" + b"9" * 40), NOT_FINITE, MALFORMED)


def _no_numbers() -> Iterator[Case]:
    for raw in (b"NaN", b"Infinity", b"-Infinity"):
        yield refused(f"literal_{raw.decode()}", spelled("volume", raw), NOT_FINITE)
        yield refused(f"literal_{raw.decode()}_in_an_unknown_member", extra(raw), NOT_FINITE)
    for raw in (
        b"nan",
        b"inf",
        b"-inf",
        b"-NaN",
        b"+Infinity",
        b"INF",
        b"Inf",
        b"nanx",
        b"01",
        b"-01",
        b"00",
        b"+1",
        b".5",
        b"-.5",
        b"1.",
        b"1.e3",
        b"1e",
        b"1e+",
        b"1E-",
        b"e5",
        b"0x10",
        b"0b1",
        b"1_000",
        b"1,000",
        b"1 000",
        b"1.2.3",
        b"1e2.5",
        b"1e5e5",
        b"--1",
        b"-",
        b"+",
        b"1-1",
        b"1/2",
        b"1f",
        b"1L",
        b"1.0d",
        b"0xFFp1",
        "\uff11".encode(),
        "\u0661".encode(),
        "\u00bd".encode(),
        "1\u00a0000".encode(),
        b"$1",
        b"1%",
        b"#N/A",
        b"(1)",
    ):
        shown = raw.decode()
        yield refused(f"no_number_{shown}", spelled("volume", raw), MALFORMED)


def _texts() -> Iterator[Case]:
    for name, raw in {
        "unended": b'"AAPL',
        "single_quotes": b"'AAPL'",
        "no_quotes": b"AAPL",
        "backticks": b"`A`",
        "curly_quotes": "\u201cAAPL\u201d".encode(),
        "bad_escape_x": rb'"\x41"',
        "bad_escape_a": rb'"\a"',
        "bad_escape_0": rb'"\0"',
        "bad_escape_quote": rb'"\'"',
        "short_unicode_escape": rb'"\u004"',
        "no_hex_in_escape": rb'"\u00G1"',
        "capital_u_escape": rb'"\U00000041"',
        "escape_at_the_end": b'"AAPL\\"',
        "escaped_line_end": b'"AA\\\nPL"',
        "triple_quotes": b'"""AAPL"""',
        "two_texts": b'"AA" "PL"',
        "plus_between_texts": b'"AA" + "PL"',
        "prefix": b'b"AAPL"',
        "escape_outside": rb"\"AAPL\"",
    }.items():
        yield refused(f"text_{name}", spelled("instrument_id", raw), MALFORMED)
    for code in (0, 1, 7, 8, 9, 10, 11, 12, 13, 27, 31):
        raw = b'"A' + bytes([code]) + b'A"'
        yield refused(f"control_{code:02d}_in_a_text", spelled("instrument_id", raw), MALFORMED)
        yield refused(f"control_{code:02d}_in_an_unknown_text", extra(raw), MALFORMED)
        yield refused(f"control_{code:02d}_in_a_name", extra(b"1", raw), MALFORMED)
    for code in (0, 9, 10, 13, 27, 31, 127):
        escaped = b'"A\\u%04xA"' % code
        yield used(f"escaped_control_{code:02d}_in_an_unknown_text", extra(escaped))
    yield used("delete_in_an_unknown_text", extra(b'"\x7f"'))
    yield used("line_separators_in_an_unknown_text", extra('"\u2028\u2029\u0085"'.encode()))
    yield used("no_character_in_an_unknown_text", extra('"\ufffe\uffff\U0010ffff"'.encode()))
    yield used("escaped_pair_in_an_unknown_text", extra(rb'"\ud83d\ude00"'))
    for name, raw in {
        "high": rb'"\ud800"',
        "low": rb'"\udc00"',
        "turned_round": rb'"\ude00\ud83d"',
        "two_highs": rb'"\ud800\ud800"',
        "high_then_letter": rb'"\ud800A"',
        "high_then_escape": rb'"\ud800\n"',
        "high_then_nothing": rb'"\ud800\u"',
    }.items():
        told = (MALFORMED, Reason.BAD_ENTITY, NOT_UTF8)
        yield either(f"half_a_pair_{name}", spelled("instrument_id", raw), *told)
        yield either(
            f"half_a_pair_{name}_in_an_unknown_text", extra(raw), None, MALFORMED, NOT_UTF8
        )


def _encodings() -> Iterator[Case]:
    text = BAR.decode()
    for name, raw in {
        "latin_1": b"\xe9",
        "windows_1252_quote": b"\x93",
        "lone_continuation": b"\x80",
        "two_continuations": b"\xbf\xbf",
        "overlong_slash": b"\xc0\xaf",
        "overlong_nul": b"\xc0\x80",
        "overlong_3": b"\xe0\x80\xaf",
        "overlong_4": b"\xf0\x80\x80\xaf",
        "cut_2": b"\xc3",
        "cut_3": b"\xe2\x82",
        "cut_4": b"\xf0\x9f\x98",
        "surrogate": b"\xed\xa0\x80",
        "surrogate_pair": b"\xed\xa0\xbd\xed\xb8\x80",
        "beyond_unicode": b"\xf4\x90\x80\x80",
        "five_bytes": b"\xf8\x88\x80\x80\x80",
        "six_bytes": b"\xfc\x84\x80\x80\x80\x80",
        "fe": b"\xfe",
        "ff": b"\xff",
        "shift_jis": b"\x83\x65\x83\x58",
        "gb18030": b"\xc4\xe3",
    }.items():
        quoted = b'"' + raw + b'"'
        yield refused(f"bytes_{name}_in_an_entity", spelled("instrument_id", quoted), NOT_UTF8)
        yield refused(f"bytes_{name}_in_an_unknown_text", extra(quoted), NOT_UTF8)
        yield refused(f"bytes_{name}_in_a_name", extra(b"1", quoted), NOT_UTF8)
        yield refused(f"bytes_{name}_outside", BAR + raw, NOT_UTF8)
        yield refused(f"bytes_{name}_alone", raw, NOT_UTF8)
    yield refused("byte_order_mark", b"\xef\xbb\xbf" + BAR, MALFORMED)
    yield refused("byte_order_mark_alone", b"\xef\xbb\xbf", MALFORMED)
    yield refused("byte_order_mark_at_the_end", BAR + b"\xef\xbb\xbf", MALFORMED)
    yield refused("utf_16_with_mark", text.encode("utf-16"), NOT_UTF8)
    for form in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):  # zero bytes are UTF-8
        yield refused(form.replace("-", "_"), text.encode(form), MALFORMED)
    yield refused("utf_32_with_mark", text.encode("utf-32"), NOT_UTF8)
    yield refused("utf_7", ("+" + text[1:]).encode("utf-7"), MALFORMED)
    yield refused("ebcdic", text.encode("cp500"), NOT_UTF8)
    yield refused("gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + BAR, NOT_UTF8)
    yield refused("zeros", bytes(100), MALFORMED)
    yield refused("base_64", b"eyJvcGVuIjogMX0=", MALFORMED)
    yield refused("a_schema_registry_frame", b"\0\0\0\0\x05" + BAR, MALFORMED)
    yield refused("message_pack", b"\x81\xa4open\x01", NOT_UTF8)


def _structure() -> Iterator[Case]:
    body = BAR[1:-1]
    for name, value in {
        "trailing_comma": b"{" + body + b",}",
        "leading_comma": b"{," + body + b"}",
        "double_comma": BAR.replace(b", ", b",, ", 1),
        "only_a_comma": b"{,}",
        "no_comma": BAR.replace(b", ", b" ", 1),
        "semicolons": BAR.replace(b", ", b"; "),
        "no_colon": BAR.replace(b": ", b" ", 1),
        "equals": BAR.replace(b": ", b" = "),
        "double_colon": BAR.replace(b": ", b":: ", 1),
        "no_value": BAR.replace(b"100.5", b""),
        "no_name": b"{: 1}",
        "name_only": b'{"open"}',
        "name_and_colon": b'{"open":}',
        "names_without_quotes": BAR.replace(b'"open"', b"open"),
        "names_in_single_quotes": BAR.replace(b'"open"', b"'open'"),
        "number_as_name": BAR.replace(b'"open"', b"1"),
        "null_as_name": BAR.replace(b'"open"', b"null"),
        "list_as_name": BAR.replace(b'"open"', b"[]"),
        "line_comment": b"{// a bar\n" + body + b"}",
        "block_comment": b"{/* a bar */" + body + b"}",
        "hash_comment": b"{# a bar\n" + body + b"}",
        "html_comment": b"<!-- a bar -->" + BAR,
        "comment_after": BAR + b" // a bar",
        "two_objects": BAR + BAR,
        "two_objects_with_a_blank": BAR + b" " + BAR,
        "two_lines": BAR + b"\n" + BAR,
        "two_with_a_comma": BAR + b"," + BAR,
        "letter_after": BAR + b"x",
        "digit_after": BAR + b"1",
        "brace_after": BAR + b"}",
        "bracket_after": BAR + b"]",
        "comma_after": BAR + b",",
        "letter_before": b"x" + BAR,
        "brace_before": b"{" + BAR,
        "closing_before": b"}" + BAR,
        "comma_before": b"," + BAR,
        "wrong_brace": BAR[:-1] + b"]",
        "wrong_braces": b"[" + body + b"]",
        "round_brackets": b"(" + body + b")",
        "no_braces": body,
        "only_opened": b"{",
        "only_closed": b"}",
        "turned_round": b"}{",
        "capital_true": extra(b"True"),
        "capital_null": extra(b"NULL"),
        "short_true": extra(b"tru"),
        "long_null": extra(b"nulll"),
        "none": extra(b"None"),
        "undefined": extra(b"undefined"),
        "a_call": extra(b"new Date(0)"),
        "list_trailing_comma": extra(b"[1,]"),
        "list_leading_comma": extra(b"[,1]"),
        "list_no_comma": extra(b"[1 2]"),
        "list_with_colon": extra(b'["a": 1]'),
        "list_closed_by_brace": extra(b"[1}"),
        "list_not_closed": extra(b"[1, 2"),
        "object_not_closed": extra(b'{"a": 1'),
        "assignment": b"bar = " + BAR,
        "guard": b")]}'\n" + BAR,
        "callback": b"f(" + BAR + b")",
        "event_stream": b"data: " + BAR,
        "record_separator": b"\x1e" + BAR,
        "xml": b"<bar open='100.5'/>",
        "yaml": b"open: 100.5\nhigh: 101\n",
        "csv": b"AAPL,1m,100.5,101.75",
        "toml": b"open = 100.5\nhigh = 101.75\n",
        "python": str(ROWS["bars"]).encode(),
        "html": b"<html><body>502 Bad Gateway</body></html>",
        "a_trace": b"Traceback (most recent call last):",
        "fix": b"8=FIX.4.4\x019=65\x0135=A\x01",
        "template": b'{"open": {{open}}}',
    }.items():
        yield refused(f"structure_{name}", value, MALFORMED)


def _cut_short() -> Iterator[Case]:
    yield refused("empty", b"", MALFORMED)
    for name, blank in {"blank": b" ", "line_feed": b"\n", "blanks": b" \t\r\n  "}.items():
        yield refused(f"only_{name}", blank, MALFORMED)
    for length in range(1, len(BAR)):
        yield refused(f"first_{length}_bytes", BAR[:length], MALFORMED)
        yield refused(f"last_{length}_bytes", BAR[-length:], MALFORMED)


def _depth() -> Iterator[Case]:
    """The message itself is the first level."""
    for levels in (2, DEEPEST - 1, DEEPEST):
        inner = levels - 1
        yield used(f"{levels}_levels_of_lists", extra(b"[" * inner + b"]" * inner))
        yield used(
            f"{levels}_levels_of_objects",
            extra(b'{"a":' * (inner - 1) + b"{}" + b"}" * (inner - 1)),
        )
    for levels in (DEEPEST + 1, DEEPEST + 2, 100, 1000, 1100, 5000, 50_000, 100_000):
        inner = levels - 1
        yield refused(f"{levels}_levels_of_lists", extra(b"[" * inner + b"]" * inner), TOO_DEEP)
        if levels <= 40_000:
            nested = b'{"a":' * (inner - 1) + b"{}" + b"}" * (inner - 1)
            yield refused(f"{levels}_levels_of_objects", extra(nested), TOO_DEEP)
    deep = b"[" * 40 + b"]" * 40
    yield refused("deep_where_a_number_should_be", spelled("open", deep), TOO_DEEP)
    yield refused("deep_where_the_entity_should_be", spelled("instrument_id", deep), TOO_DEEP)
    yield used("brackets_in_a_text_are_no_depth", extra(b'"' + b"[{" * 500 + b'"'))
    yield used("brackets_after_an_escaped_quote_are_no_depth", extra(rb'"\"' + b"[" * 500 + b'"'))
    yield used("brackets_side_by_side_are_no_depth", extra(b"[" + b"[], " * 500 + b"[]]"))
    for opened in (b"[", b"{", b'{"a":', b"[{"):
        told = (TOO_DEEP, MALFORMED)
        yield either(f"100000_bytes_of_{opened.decode()}", (opened * 100_000)[:100_000], *told)
        yield either(f"many_{opened.decode()}_in_a_bar", extra((opened * 50_000)[:100_000]), *told)


def _doubled_keys() -> Iterator[Case]:
    for column in ROWS["bars"]:
        raw = encoded()[1:-1].split(b", ")
        index = list(ROWS["bars"]).index(column)
        again = b"{" + b", ".join([*raw, raw[index]]) + b"}"
        yield refused(f"{column}_twice_alike", again, DOUBLED)
    for name, value in {
        "open_twice": extra(b"1", b'"open"'),
        "open_first_as_null": b'{"open": null, ' + BAR[1:],
        "open_once_escaped": extra(b"1", rb'"\u006fpen"'),
        "open_and_escaped_end": extra(b"1", rb'"ope\u006e"'),
        "open_and_blank_before_the_colon": extra(b"1 ", b'"open" \n'),
        "unknown_twice": extra(b'1, "extra": 2'),
        "no_name_twice": extra(b'1, "": 2', b'""'),
        "in_an_unknown_object": extra(b'{"a": 1, "a": 2}'),
        "deep_inside": extra(b'[[{"b": {"a": 1, "a": 1}}]]'),
        "beyond_ascii": extra('1, "\u00e9": 2'.encode(), '"\u00e9"'.encode()),
        "beyond_ascii_once_escaped": extra(rb'1, "\u00e9": 2', '"\u00e9"'.encode()),
        "three_times": extra(b'1, "open": 2, "open": 3', b'"open"'),
        "far_apart": extra(b"1, " + b", ".join(b'"m%d": 0' % i for i in range(500)) + b', "m0": 1'),
    }.items():
        yield refused(f"doubled_{name}", value, DOUBLED)
    for name, value in {
        "in_two_objects": extra(b'[{"a": 1}, {"a": 2}]'),
        "in_parent_and_child": extra(b'{"a": {"a": 1}}'),
        "composed_and_decomposed": extra('1, "e\u0301": 2'.encode(), '"\u00e9"'.encode()),
        "in_another_case": extra(b'1, "Extra": 2'),
        "one_in_a_text": extra(rb'"\"open\": 1"'),
        "as_value": extra(b'"open"'),
        "with_a_colon_in_it": extra(b'1, "open:": 2', b'"open :"'),
    }.items():
        yield used(f"not_doubled_{name}", value, open=100.5)


def _sizes() -> Iterator[Case]:
    def padded(length: int) -> bytes:
        return BAR + b" " * (length - len(BAR))

    yield used("as_large_as_may_be", padded(LIMIT_BYTES))
    yield used(
        "a_text_as_large_as_may_be", extra(b'"' + b"x" * (LIMIT_BYTES - len(extra(b'""'))) + b'"')
    )
    for length in (LIMIT_BYTES + 1, 2 * LIMIT_BYTES, 900_000):
        yield refused(f"{length}_bytes", padded(length), Reason.TOO_LARGE)
    yield refused("large_and_not_json", b"x" * (LIMIT_BYTES + 1), Reason.TOO_LARGE)
    yield refused("large_and_not_utf_8", b"\xff" * (LIMIT_BYTES + 1), Reason.TOO_LARGE)
    yield refused("large_and_deep", b"[" * (LIMIT_BYTES + 1), Reason.TOO_LARGE)
    yield refused("tombstone", None, Reason.TOMBSTONE)


def _tops() -> Iterator[Case]:
    for name, value in {
        "list": b"[]",
        "list_of_a_bar": b"[" + BAR + b"]",
        "text": b'"AAPL"',
        "number": b"100.5",
        "null": b"null",
        "true": b"true",
        "false": b"false",
        "a_bar_in_a_text": b'"{}"',
        "minus": b"-1",
        "list_of_values": b'["AAPL", "1m", 1, 2, 3]',
    }.items():
        yield refused(f"top_is_{name}", value, MALFORMED)
    yield refused("top_is_nan", b"NaN", NOT_FINITE)
    yield refused("empty_object", b"{}", Reason.MISSING)
    yield refused("object_of_others", b'{"a": 1}', Reason.MISSING)


def _first_fault_counts() -> Iterator[Case]:
    yield refused("not_utf_8_and_cut_short", BAR[:-1] + b"\xff", NOT_UTF8)
    yield refused("not_utf_8_and_doubled", extra(b'"\xff"', b'"open"'), NOT_UTF8)
    yield refused("doubled_and_cut_short", extra(b"1", b'"open"')[:-1], MALFORMED)
    yield refused("doubled_and_of_a_wrong_type", extra(b'"x"', b'"open"'), DOUBLED)
    yield refused("deep_and_of_a_wrong_type", extra(b"[" * 40 + b"]" * 40 + b', "a": []'), TOO_DEEP)
    wrong = encoded(open="x", high=None)
    yield refused("of_a_wrong_type_and_missing", wrong, Reason.WRONG_TYPE)
    yield refused("missing_and_a_bad_entity", encoded(open=None, instrument_id="~"), Reason.MISSING)
    yield refused("a_bad_entity_and_time", encoded(instrument_id="~", ts=0), Reason.BAD_ENTITY)
    yield refused("a_bad_time_and_bound", encoded(ts=0, open=-1), Reason.TIME_RANGE)
    yield refused("a_bad_bound_and_rule", encoded(open=-1, high=1, low=2), Reason.OUT_OF_BOUNDS)
    yield refused(
        "a_bad_rule_and_late", encoded(ts="2001-01-01T00:00:00Z", high=1), Reason.BROKEN_RULE
    )
