"""JSON objects taken apart, many at once: where the values of some columns stand, and plain ones.

Only what is surely sound is read here. Whatever else comes (escapes, numbers that need many digits
of care, nested values, wrong types, mistakes) is left to a parser that knows all of JSON; each
object is told apart from its neighbours, so none can change how another is read.
"""

from __future__ import annotations

import numpy as np

from operators.kernels import inlined, kernel
from operators.kernels.numbers import (
    AGAIN,
    FOREIGN,
    LEFT,
    MEMBERS,
    NULL,
    NUMBER,
    OF_NUMBER,
    OF_SAMPLES,
    OTHER,
    READ,
    SAMPLES,
    SUSPECT,
    TEXT,
    TRUTH,
    blanks,
    is_number,
)
from operators.kernels.words import borrowed, load_8, lowest

MOST_DEPTH = 32
MOST_KEYS = 256
_SPACE, _QUOTE, _COMMA, _MINUS, _ZERO, _NINE = 32, 34, 44, 45, 48, 57
_COLON, _OPEN_LIST, _ESCAPE, _END_LIST, _OPEN, _END = 58, 91, 92, 93, 123, 125
SPARE = 8
"""Bytes that must lie behind the objects and behind the names, for they are read in words."""


_ONES, _TOPS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
"""A word of bytes that are 1, and of bytes whose top bit is set."""


@inlined
def _equal(word, byte):
    """Sets the top bits of bytes that are equal to one; the lowest that is set is right.

    Other bits mean nothing.
    """
    differs = word ^ (np.uint64(byte) * _ONES)
    return (differs - _ONES) & ~differs


@inlined
def _less(word, bound):
    """Sets the top bits of bytes below a bound, as :func:`_equal` does."""
    return (word - np.uint64(bound) * _ONES) & ~word


@inlined
def _string(data, at, end):
    """Where a string ends (-1: nowhere), and whether it has escapes or bytes beyond ASCII."""
    escaped = False
    foreign = False
    while at < end:
        word = load_8(data, at)
        marks = _equal(word, _QUOTE) | _equal(word, _ESCAPE) | _less(word, _SPACE) | word
        marks &= _TOPS
        if marks == 0:
            at += 8
            continue
        at += lowest(marks) >> 3
        if at >= end:
            break
        byte = data[at]
        if byte == _QUOTE:
            return at, escaped, foreign
        if byte == _ESCAPE:
            escaped = True
            at += 1
        elif byte < _SPACE:
            return -1, escaped, foreign
        else:
            foreign = True
        at += 1
    return -1, escaped, foreign


@inlined
def _word(data, at, end, first, second, third, fourth):
    return (
        at + 4 <= end
        and data[at] == first
        and data[at + 1] == second
        and data[at + 2] == third
        and data[at + 3] == fourth
    )


@kernel
def _nested(data, at, end, keys, known):
    """Where a nested value ends (-1: it cannot be vouched for), and whether it has foreign bytes.

    Objects and lists must close each other in order, no object may have a key twice.
    """
    data, keys = borrowed(data), borrowed(keys)
    is_object = np.empty(MOST_DEPTH + 1, np.bool_)
    first_key = np.empty(MOST_DEPTH + 1, np.int64)
    depth = 1  # that of the object around it
    top = known
    foreign = False
    while at < end:
        byte = data[at]
        if byte == _QUOTE:
            start = at + 1
            at, escaped, beyond = _string(data, start, end)
            if at < 0:
                return -1, foreign
            foreign |= beyond
            after = blanks(data, at + 1, end)
            if is_object[depth] and after < end and data[after] == _COLON:
                if escaped or top == MOST_KEYS:
                    return -1, foreign
                code = _hash(data, start, at)
                for other in range(first_key[depth], top):
                    if keys[other] == code:
                        return -1, foreign
                keys[top] = code
                top += 1
        elif byte in (_OPEN, _OPEN_LIST):
            depth += 1
            if depth > MOST_DEPTH:
                return -1, foreign
            is_object[depth] = byte == _OPEN
            first_key[depth] = top
        elif byte in (_END, _END_LIST):
            if is_object[depth] != (byte == _END):
                return -1, foreign
            top = first_key[depth]
            depth -= 1
            if depth == 1:
                return at + 1, foreign
        elif byte >= 128:
            return -1, foreign
        at += 1
    return -1, foreign


@inlined
def _hash(data, start, end):
    code = np.uint64(14695981039346656037)
    for i in range(start, end):
        code = (code ^ np.uint64(data[i])) * np.uint64(1099511628211)
    return code


@inlined
def _is(data, at, length, names, first):
    differ = np.uint64(0)
    while length >= 8:
        differ |= load_8(data, at) ^ load_8(names, first)
        at += 8
        first += 8
        length -= 8
    if length > 0:
        rest = load_8(data, at) ^ load_8(names, first)
        differ |= rest << np.uint64(8 * (8 - length))
    return differ == 0


@inlined
def _expected(data, at, end, names, first, size):
    """Whether a name and its closing quote stand somewhere."""
    return at + size < end and data[at + size] == _QUOTE and _is(data, at, size, names, first)


@inlined
def _find(data, begun, at, names, name_at):
    """The column that a key names; -1 for none."""
    found = -1
    for column in range(name_at.shape[0] - 1):
        size = name_at[column + 1] - name_at[column]
        if size == at - begun and _is(data, begun, size, names, name_at[column]):
            found = column
    return found


@inlined
def _repeated(data, begun, at, keys, known):
    """Whether a key is among the known ones of its object; it is put behind them."""
    code = _hash(data, begun, at)
    repeated = False
    for other in range(known):
        repeated |= keys[other] == code
    keys[known] = code
    return repeated


@inlined
def _bare(data, at, end):
    """Where a value without quotes and brackets ends."""
    while at < end:
        word = load_8(data, at)
        marks = _equal(word, _COMMA) | _equal(word, _END) | _equal(word, _END_LIST)
        marks = (marks | _less(word, _SPACE + 1)) & _TOPS
        if marks != 0:
            return min(at + (lowest(marks) >> 3), end)
        at += 8
    return end


@inlined
def _flat_end(data, at, end):
    """Where a list without texts, lists and objects in it ends; -1 for another one."""
    at += 1
    while at < end and data[at] not in (_END_LIST, _OPEN_LIST, _OPEN, _QUOTE):
        at += 1
    return at + 1 if at < end and data[at] == _END_LIST else -1


@inlined
def _kind_of_bare(data, at, end):
    """What a value without quotes and brackets is, by its looks; -1 for nothing."""
    if at < end and (data[at] == _MINUS or _ZERO <= data[at] <= _NINE):
        return NUMBER
    if end - at == 4 and _word(data, at, end, 110, 117, 108, 108):
        return NULL
    if end - at == 4 and _word(data, at, end, 116, 114, 117, 101):
        return TRUTH
    if end - at == 5 and _word(data, at, end, 102, 97, 108, 115) and data[at + 4] == 101:
        return TRUTH
    return -1


@inlined
def _value(data, begun, end, listed, keys, known):
    """A value: where it begins, ends and is over, what it is (-1: nothing sound), any foreign."""
    byte = data[begun]
    if byte == _QUOTE:
        at, escaped, foreign = _string(data, begun + 1, end)
        found = -1 if at < 0 else OTHER if escaped else TEXT
        return begun + 1, at, at + 1, found, foreign
    if byte in (_OPEN, _OPEN_LIST):
        at = _flat_end(data, begun, end) if listed and byte == _OPEN_LIST else -1
        if at >= 0:
            return begun, at, at, SAMPLES, False
        at, foreign = _nested(data, begun, end, keys, known)
        return begun, at, at, -1 if at < 0 else OTHER, foreign
    at = _bare(data, begun, end)
    return begun, at, at, _kind_of_bare(data, begun, at), False


@kernel
def locate(data, starts, ends, names, name_at, kinds, out, what, first, length):
    """Finds the values of some columns in the objects ``data[starts[i]:ends[i]]``.

    ``names[name_at[c]:name_at[c + 1]]`` is the name of column ``c`` and ``kinds[c]`` what it must
    hold. Of each object ``out`` says what became of it; of each column of one that was read
    ``what`` is there, from ``first`` on, ``length`` bytes. Numbers and samples are only found: what
    reads them leaves objects where they are not what they look like. ``SPARE`` bytes must lie
    behind the objects and behind the names.
    """
    data, names, name_at, kinds = (
        borrowed(data),
        borrowed(names),
        borrowed(name_at),
        borrowed(kinds),
    )
    order = np.full(MOST_KEYS, -1, np.int64)
    keys = np.empty(MOST_KEYS + 1, np.uint64)
    for row in range(starts.shape[0]):
        at, end = blanks(data, starts[row], ends[row]), ends[row]
        state, foreign = SUSPECT, False
        seen = np.uint64(0)
        known, place = 0, 0
        if at < end and data[at] == _OPEN:
            at = blanks(data, at + 1, end)
            if at < end and data[at] == _END:
                state = READ
            elif at < end:
                state = MEMBERS
        left = False
        while state == MEMBERS:
            state = SUSPECT
            if at >= end or data[at] != _QUOTE or place == MOST_KEYS:
                break
            # Programs write keys in one order: the next is most likely that of the last object.
            begun, column = at + 1, order[place]
            first_byte = name_at[column] if column >= 0 else 0
            size = name_at[column + 1] - first_byte if column >= 0 else 0
            if column >= 0 and _expected(data, begun, end, names, first_byte, size):
                at = begun + size
            else:
                at, escaped, beyond = _string(data, begun, end)
                if at < 0 or escaped:
                    break
                foreign |= beyond
                column = _find(data, begun, at, names, name_at)
                order[place] = column
                if column < 0:
                    if _repeated(data, begun, at, keys, known):
                        break
                    known += 1
            place += 1
            if column >= 0:
                if seen >> np.uint64(column) & np.uint64(1):
                    what[0, row], first[0, row], length[0, row] = AGAIN, begun, at - begun
                    break
                seen |= np.uint64(1) << np.uint64(column)
            at = blanks(data, at + 1, end)
            if at >= end or data[at] != _COLON:
                break
            begun = blanks(data, at + 1, end)
            if begun >= end:
                break
            listed = column >= 0 and kinds[column] == OF_SAMPLES
            begun, at, after, found, beyond = _value(data, begun, end, listed, keys, known)
            foreign |= beyond
            if found < 0:
                break
            if column < 0:
                left |= found == OTHER or (found == NUMBER and not is_number(data, begun, at))
            elif found != NULL:
                left |= not _fits(found, kinds[column])
                what[column, row] = found
                first[column, row] = begun
                length[column, row] = at - begun
            at = blanks(data, after, end)
            if at < end and data[at] == _COMMA:
                at = blanks(data, at + 1, end)
                state = MEMBERS
            elif at < end and data[at] == _END:
                state = LEFT if left else READ
        if blanks(data, at + 1, end) != end:
            state = SUSPECT
        out[row] = state + FOREIGN if foreign else state


@inlined
def _fits(found, kind):
    """Whether a value may be one of a column."""
    if kind == OF_NUMBER:
        return found == NUMBER
    return found == SAMPLES if kind == OF_SAMPLES else found in (TEXT, NUMBER)


@kernel
def gather(data, first, length, there):
    """The bytes of texts in one piece, and where each begins and the last ends."""
    offsets = np.empty(first.shape[0] + 1, np.int64)
    offsets[0] = 0
    for i in range(first.shape[0]):
        offsets[i + 1] = offsets[i] + (length[i] if there[i] else 0)
    texts = np.empty(offsets[-1], np.uint8)
    for i in range(first.shape[0]):
        at = offsets[i]
        for j in range(offsets[i + 1] - at):
            texts[at + j] = data[first[i] + j]
    return texts, offsets


@kernel
def nesting(data):
    """How deep objects and lists lie in each other."""
    depth = 0
    deepest = 0
    quoted = False
    at = 0
    while at < data.shape[0]:
        byte = data[at]
        if quoted:
            if byte == _ESCAPE:
                at += 1
            elif byte == _QUOTE:
                quoted = False
        elif byte == _QUOTE:
            quoted = True
        elif byte in (_OPEN, _OPEN_LIST):
            depth += 1
            deepest = max(deepest, depth)
        elif byte in (_END, _END_LIST):
            depth -= 1
        at += 1
    return deepest
