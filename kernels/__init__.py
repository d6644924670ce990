"""Numba kernels: arrays in, arrays out, nothing else known.

A kernel takes rows, parameters, state, output, in that order, and writes only the last two. Rows come sorted by
(entity, time) with each pair at most once; a row whose value is NaN changes nothing. Each kernel has a twin of the
same name in tests/kernels/naive.py, and gives the same bits however its rows are cut into calls.
"""
