"""Bytes eight at a time: what every kernel that reads text or wire formats stands on.

A caller gives `data` at least PADDING readable bytes after the last one that counts, so that a word may be read anywhere.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

PADDING = 8
ONES = np.uint64(0x0101010101010101)
TOPS = np.uint64(0x8080808080808080)
QUOTES = np.uint64(0x2222222222222222)
BACKSLASHES = np.uint64(0x5C5C5C5C5C5C5C5C)
SPACES = np.uint64(0x2020202020202020)
MIX = np.uint64(0x9E3779B97F4A7C15)
NO_WORD = np.uint64(0)

# Neither allocates: without Numba's run time no reference is counted, which cost native_scan two thirds of its time.
# `inline` copies the function into its caller; `routine` leaves that to the compiler, for what is long and called from
# several places.
inline = numba.njit(error_model="numpy", nogil=True, _nrt=False, inline="always")
routine = numba.njit(error_model="numpy", nogil=True, _nrt=False)


@intrinsic
def _word_unchecked(context: Any, data: Any, at: Any) -> Any:
    """Load eight bytes from any address as one little-endian number: one instruction instead of eight."""

    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = target.make_array(signature.args[0])(target, builder, arguments[0])
        word_type = target.get_value_type(types.uint64)
        address = builder.bitcast(builder.gep(array.data, [arguments[1]]), word_type.as_pointer())
        word = builder.load(address)
        word.align = 1
        return word

    return types.uint64(data, at), generate


@inline
def _word_checked(data, at):
    word = np.uint64(0)
    for k in range(8):
        word |= np.uint64(data[at + k]) << np.uint64(8 * k)
    return word


# With bounds checks on, a load that leaves the array must raise like any other access.
word_at = _word_checked if numba.config.BOUNDSCHECK else _word_unchecked


@inline
def zero_bytes(word):
    """Return a number whose lowest set bit is the top bit of the first zero byte in `word`; 0 if there is none."""
    return (word - ONES) & ~word & TOPS


@intrinsic
def first_marked(context: Any, marks: Any) -> Any:
    """Return how many whole bytes lie below the lowest set bit; undefined for 0."""

    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        never_zero = target.get_constant(types.boolean, True)
        zeros = builder.cttz(arguments[0], builder.trunc(never_zero, ir.IntType(1)))
        return builder.lshr(zeros, target.get_constant(types.uint64, 3))

    return types.int64(marks), generate


@intrinsic
def float_of(context: Any, bits: Any) -> Any:
    """Return the float64 that has these 64 bits."""

    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(bits), generate


@inline
def head_of(word, size):
    """Return the first `size` bytes of a word, 1 to 8 of them, the others zero."""
    return word & (~np.uint64(0) >> np.uint64(64 - 8 * size))


@inline
def mixed(hash_, word):
    """Return a hash that has taken in one more word."""
    hash_ = (hash_ ^ word) * MIX
    return hash_ ^ (hash_ >> np.uint64(29))


@inline
def varint_at(data, at, end):
    """Return the unsigned varint at `at` and where it ends; -1 as its end where it does not end before `end`."""
    number = np.uint64(0)
    shift = np.uint64(0)
    while at < end and shift < np.uint64(70):
        byte = np.uint64(data[at])
        at += 1
        number |= (byte & np.uint64(0x7F)) << shift
        if byte < np.uint64(0x80):
            return number, at
        shift += np.uint64(7)
    return number, np.int64(-1)
