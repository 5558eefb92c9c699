"""Halving a box of voxels: exact means for images, modes for labels.

Means of whole numbers are exact and rounded once, half to even, so that a pyramid of many levels drifts neither up nor down
(rounding half up would add 1/16 of a grey value per level, cutting off would take 7/16). An odd edge averages what exists.
Means of floats are summed in float64, along x, then y, then z, and rounded once to the dtype; NaN voxels are left out, and a cell
of nothing but NaN is NaN.
Modes take the most frequent value of a cell, the smallest of several equally frequent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emporter_contracts.geometry import Shape3
from emporter_contracts.plans import Role

Voxels = NDArray[Any]
Halving = Callable[[Voxels, Shape3], Voxels]

BLOCK_BYTES = 2**20
"""Of input worked on at once, so that every pass but the first finds it in the processor's cache: three times as fast as whole
boxes of 64 MiB, and no slower from 256 KiB to 4 MiB."""


def halving(role: Role) -> Halving:
    """How a volume of this role becomes its next level."""
    return mode if role == "labels" else mean


def halved_shape(shape: Shape3, factor: Shape3) -> Shape3:
    """Voxels of the next level: odd edges keep a voxel of their own."""
    z, y, x = (-(-n // f) for n, f in zip(shape, factor, strict=True))
    return (z, y, x)


def mean(voxels: Voxels, factor: Shape3) -> Voxels:
    """The mean of every cell of `factor` voxels (each 1 or 2), axes z, y, x, in the dtype of `voxels`."""
    return _in_blocks(voxels, factor, _float_mean if voxels.dtype.kind == "f" else _whole_mean)


def mode(voxels: Voxels, factor: Shape3) -> Voxels:
    """The most frequent value of every cell of `factor` voxels (each 1 or 2), axes z, y, x; floats are compared by their bits."""
    if voxels.dtype.kind != "f":
        return _in_blocks(voxels, factor, _block_mode)
    return _in_blocks(voxels.view(f"u{voxels.dtype.itemsize}"), factor, _block_mode).view(voxels.dtype)


def _in_blocks(voxels: Voxels, factor: Shape3, halve: Callable[[Voxels, Shape3], Voxels]) -> Voxels:
    out = np.empty(halved_shape((voxels.shape[0], voxels.shape[1], voxels.shape[2]), factor), voxels.dtype)
    row = max(1, voxels[0, 0].nbytes * factor[0] * factor[1])
    # Large planes are cut too: of a volume of one plane a whole shard would be worked on at once, in four times its bytes.
    rows = min(out.shape[1], max(1, BLOCK_BYTES // row))
    planes = max(1, BLOCK_BYTES // (row * rows))
    for z, y in product(range(0, out.shape[0], planes), range(0, out.shape[1], rows)):
        block = voxels[z * factor[0] : (z + planes) * factor[0], y * factor[1] : (y + rows) * factor[1]]
        out[z : z + planes, y : y + rows] = halve(np.ascontiguousarray(block), factor)
    return out


def _whole_mean(block: Voxels, factor: Shape3) -> Voxels:
    shift = math.prod(factor).bit_length() - 1
    if block.dtype.itemsize == 8:
        return _long_mean(block, factor, shift)
    wide = np.dtype(f"{block.dtype.kind}{2 * block.dtype.itemsize}")
    sums = _pair_sums(block, wide) if factor[2] == 2 else block.astype(wide)
    return _rounded(_folded(sums, (factor[0], factor[1], 1)), shift).astype(block.dtype)


def _long_mean(block: Voxels, factor: Shape3, shift: int) -> Voxels:
    """Sums of eight 64-bit numbers don't fit 64 bits, so what the division leaves over is summed apart."""
    low = block.dtype.type((1 << shift) - 1)
    left = _folded(block & low, factor)
    quotient: Voxels = _folded(block >> shift, factor) + (left >> shift)
    left &= low
    half = (1 << shift) >> 1
    if half:
        quotient += ((left > half) | ((left == half) & ((quotient & 1) == 1))).astype(block.dtype)
    return quotient


def _pair_sums(block: Voxels, wide: np.dtype[Any]) -> Voxels:
    """Sums of neighbours along x. Two neighbours are read as one number of twice the width: twice as fast as strided slices."""
    x = block.shape[2]
    bits = 8 * block.dtype.itemsize
    pairs = np.ascontiguousarray(block[:, :, : x // 2 * 2]).view(wide)
    if block.dtype.kind == "u":
        sums: Voxels = pairs & wide.type((1 << bits) - 1)
    else:
        sums = pairs << bits
        sums >>= bits
    sums += pairs >> bits
    if x % 2 == 0:
        return sums
    return np.concatenate([sums, block[:, :, x - 1 :].astype(wide) * 2], axis=2)


def _folded(values: Voxels, factor: Shape3) -> Voxels:
    """Sums over cells; what an odd edge lacks is counted twice, which leaves the mean what it is."""
    for axis in (2, 1, 0):
        if factor[axis] == 2:
            values = _fold(values, axis)
    return values


def _fold(values: Voxels, axis: int) -> Voxels:
    n = values.shape[axis]
    first = [slice(None)] * 3
    second = list(first)
    first[axis], second[axis] = slice(0, n // 2 * 2, 2), slice(1, None, 2)
    sums: Voxels = values[tuple(first)] + values[tuple(second)]
    if n % 2 == 0:
        return sums
    first[axis] = slice(n - 1, None)
    return np.concatenate([sums, values[tuple(first)] * 2], axis=axis)


def _rounded(sums: Voxels, shift: int) -> Voxels:
    """`sums` over 2^shift, half to even; shifts round down for negative numbers too."""
    if shift == 0:
        return sums
    odd = sums >> shift
    odd &= 1
    sums += (1 << shift - 1) - 1
    sums += odd
    sums >>= shift
    return sums


def _float_mean(block: Voxels, factor: Shape3) -> Voxels:
    # Divided before it is summed: eight numbers near the end of float64 would add up to infinity.
    with np.errstate(invalid="ignore", over="ignore"):
        parts = block.astype(np.float64) / math.prod(factor)
        means = _folded(parts, factor)
        if np.isnan(means).any():
            known = ~np.isnan(parts)
            counts = _folded(known.astype(np.float64), factor) / math.prod(factor)
            sums = _folded(np.where(known, parts, 0.0), factor)
            means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
        return means.astype(block.dtype)


def _block_mode(block: Voxels, factor: Shape3) -> Voxels:
    values = _candidates(block, factor)
    out = values[0].copy()
    mixed = np.zeros(out.shape, np.bool_)
    for other in values[1:]:
        mixed |= other != out
    if mixed.any():
        out[mixed] = _most_frequent([value[mixed] for value in values])
    return out


def _candidates(block: Voxels, factor: Shape3) -> list[Voxels]:
    """The voxels of every cell, an array for each place in a cell; odd edges repeat their last voxel, which changes no mode."""
    pad = [(0, -n % f) for n, f in zip(block.shape, factor, strict=True)]
    even = np.pad(block, pad, mode="edge") if any(after for _, after in pad) else block
    fz, fy, fx = factor
    return [even[z::fz, y::fy, x::fx] for z in range(fz) for y in range(fy) for x in range(fx)]


def _most_frequent(values: list[Voxels]) -> Voxels:
    """By sorting each cell's 2, 4 or 8 values with a network of minima and maxima, then looking for the longest run."""
    n = len(values)
    for a, b in _network(n):
        values[a], values[b] = np.minimum(values[a], values[b]), np.maximum(values[a], values[b])
    found = values[0]
    for length in range(2, n + 1):
        for start in range(n - length, -1, -1):
            found = np.where(values[start] == values[start + length - 1], values[start], found)
    return found


@lru_cache(maxsize=4)
def _network(n: int) -> tuple[tuple[int, int], ...]:
    """Compare-exchanges that sort n = 2^k values (Batcher's odd-even merge sort; Knuth, TAOCP vol. 3, 5.2.2 algorithm M)."""
    pairs = []
    p = n // 2
    while p:
        q, r, d = n // 2, 0, p
        while True:
            pairs += [(i, i + d) for i in range(n - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2
    return tuple(pairs)
