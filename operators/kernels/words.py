"""What a processor does in one step and numpy has no word for, and arrays without their count."""

from __future__ import annotations

from typing import Any

from numba import extending, types

intrinsic: Any = extending.intrinsic
"""Decorator of an instruction; its first argument is numba's, and callers leave it out."""


def _word(context, bits):
    """The type of a word in the code that is built."""
    return type(context.get_value_type(types.uint64))(bits)


def _place(context, builder, kind, array, at, bits):
    """Where a word in an array of bytes begins."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), _word(context, bits).as_pointer())


@intrinsic
def product(typing, a, b):
    """The 128 bits of a product, as two words, the high one first."""

    def build(context, builder, signature, given):
        wide, word = _word(context, 128), _word(context, 64)
        whole = builder.mul(builder.zext(given[0], wide), builder.zext(given[1], wide))
        high = builder.trunc(builder.lshr(whole, wide(64)), word)
        both = (high, builder.trunc(whole, word))
        return context.make_tuple(builder, signature.return_type, both)

    return types.UniTuple(types.uint64, 2)(types.uint64, types.uint64), build


@intrinsic
def borrowed(typing, array):
    """The same array, without being counted among those who hold it.

    numba counts each time that an array is handed to a function, inlined or not, which can take
    longer than what the function does. Only for what the caller of a kernel holds: what the kernel
    has made itself would be gone.
    """

    def build(context, builder, signature, given):
        view = context.make_array(array)(context, builder, given[0])
        view.meminfo = view.meminfo.type(None)
        return view._getvalue()

    return array(array), build


@intrinsic
def lowest(typing, word):
    """The place of the lowest bit that is set; one must be."""

    def build(context, builder, signature, given):
        return builder.cttz(given[0], context.get_constant(types.boolean, True))

    return types.int64(types.uint64), build


@intrinsic
def load_8(typing, data, at):
    """Eight bytes as a word, the first one lowest; there must be so many."""

    def build(context, builder, signature, given):
        place = _place(context, builder, signature.args[0], given[0], given[1], 64)
        return builder.load(place, align=1)

    return types.uint64(data, types.int64), build


@intrinsic
def put_8(typing, out, at, word):
    """Writes the eight bytes of a word, its lowest one first, where there must be room."""

    def build(context, builder, signature, given):
        place = _place(context, builder, signature.args[0], given[0], given[1], 64)
        builder.store(given[2], place, align=1)
        return context.get_dummy_value()

    return types.none(out, types.int64, types.uint64), build


@intrinsic
def copy_16(typing, out, at, data, begun):
    """Copies sixteen bytes; there must be so many, and room for them."""

    def build(context, builder, signature, given):
        kinds = signature.args
        source = _place(context, builder, kinds[2], given[2], given[3], 128)
        place = _place(context, builder, kinds[0], given[0], given[1], 128)
        builder.store(builder.load(source, align=1), place, align=1)
        return context.get_dummy_value()

    return types.none(out, types.int64, data, types.int64), build
