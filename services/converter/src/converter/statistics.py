"""Statistics of a volume's voxels, gathered piece by piece in bounded memory and merged exactly, in whatever order.

Voxels of 8 and 16 bits are counted by value, so everything about them is exact. Wider ones are counted in bins of the leading 20
bits of their float64 (sign, exponent, 8 bits of mantissa): minimum, maximum and shares are exact, mean and deviation are summed
in float64, percentiles are right to 0.4 %, which is also how fine the histogram's edges are before bins are joined.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from emporter_contracts.records import Number, Statistics, exact, finite

BINS = 256
"""Of the histogram in the record, at most."""
WINDOW = (0.001, 0.999)
"""Quantiles a viewer's window starts and ends at: robust against dead and hot pixels, and still the range of real voxels."""
BLOCK = 2**19
"""Voxels looked at together, so that what is derived from them stays in the processor's cache."""
KEY_BITS = 20
"""Leading bits of a float64 that wide voxels are counted by: 2^20 bins are 8 MiB."""

Voxels = NDArray[Any]
Tally = Mapping[str, NDArray[Any]]
"""All that a counter has counted, by name, as arrays."""


class Counter(Protocol):
    """Gathers voxels of one dtype."""

    @property
    def n(self) -> int:
        """Voxels counted."""

    def add(self, voxels: Voxels) -> None:
        """Count an array of any shape."""

    def take(self, tally: Tally) -> None:
        """Add what another counter of this dtype has counted. Raises KeyError, ValueError where `tally` is none."""

    def tally(self) -> Tally:
        """For `take`: the same whatever the order in which the same arrays were added."""

    def statistics(self, *, window: bool) -> Statistics:
        """Of all that was counted; `window` only for images."""


def counter(dtype: np.dtype[Any]) -> Counter:
    """What counts voxels of `dtype`."""
    if dtype.kind in "ui" and dtype.itemsize <= 2:
        return ValueCounter(dtype)
    return WideCounter(dtype)


class ValueCounter:
    """Counts every value of an 8- or 16-bit dtype."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._counts = np.zeros(2**16, np.int64)
        self._alone = 0
        self._taken = np.zeros(2 ** (8 * dtype.itemsize), np.int64)

    @property
    def n(self) -> int:
        return int(self._by_bits().sum())

    def add(self, voxels: Voxels) -> None:
        # Two 8-bit neighbours are counted as one 16-bit number and told apart at the end: half the work.
        for block in _blocks(voxels, 2 * BLOCK // self._dtype.itemsize):
            flat = block.view(np.uint8)
            self._counts += np.bincount(flat[: flat.size // 2 * 2].view("<u2"), minlength=2**16)
            if flat.size % 2:
                # A voxel without a neighbour is a pair with 0, and the 0 is taken back in `_by_bits`.
                self._counts[int(flat[-1])] += 1
                self._alone += 1

    def take(self, tally: Tally) -> None:
        counts = tally["counts"]
        if counts.shape != self._taken.shape:
            raise ValueError(f"counts of {counts.size} values, not of {self._taken.size}")
        self._taken += counts

    def tally(self) -> Tally:
        return {"counts": self._by_bits()}

    def _by_bits(self) -> NDArray[np.int64]:
        """How often each value occurs, in the order of their bits: of signed ones the negative come last."""
        if self._dtype.itemsize == 1:
            pairs = self._counts.reshape(256, 256)
            counts: NDArray[np.int64] = pairs.sum(axis=0) + pairs.sum(axis=1)
            counts[0] -= self._alone
            return counts + self._taken
        return self._counts + self._taken

    def _by_value(self) -> tuple[list[int], list[int]]:
        """Values that occur, ascending, and how often."""
        counts = self._by_bits()
        half = len(counts) // 2
        if self._dtype.kind == "i":
            counts = np.roll(counts, half)
        first = -half if self._dtype.kind == "i" else 0
        present = np.flatnonzero(counts)
        return [int(v) + first for v in present], [int(c) for c in counts[present]]

    def statistics(self, *, window: bool) -> Statistics:
        values, counts = self._by_value()
        if not values:
            return Statistics()
        n = sum(counts)
        held = dict(zip(values, counts, strict=True))
        total = sum(v * c for v, c in held.items())
        squares = sum(v * v * c for v, c in held.items())
        info = np.iinfo(self._dtype)
        ends = {int(info.max)} | ({int(info.min)} if info.min else set())
        edges, histogram = _even_bins(values, counts)
        return Statistics(
            minimum=values[0],
            maximum=values[-1],
            mean=total / n,
            std=math.sqrt(max(0, squares * n - total * total)) / n,
            zero_share=held.get(0, 0) / n,
            saturated_share=sum(held.get(v, 0) for v in ends) / n,
            edges=edges,
            histogram=histogram,
            window=_value_window(values, counts) if window else None,
        )


def _value_window(values: list[int], counts: list[int]) -> tuple[Number, Number]:
    """The values at the quantiles of WINDOW, zeros (what stages and montages fill with) left out."""
    present = [(v, c) for v, c in zip(values, counts, strict=True) if v != 0] or [(0, 1)]
    seen = np.cumsum([c for _, c in present])
    low, high = (present[min(int(np.searchsorted(seen, q * int(seen[-1]))), len(present) - 1)][0] for q in WINDOW)
    return (low, high) if low < high else (values[0], max(values[-1], values[0] + 1))


def _even_bins(values: list[int], counts: list[int]) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """At most BINS bins of the same whole width from the smallest value to past the largest."""
    width = -(-(values[-1] - values[0] + 1) // BINS)
    bins = (values[-1] - values[0]) // width + 1
    where = (np.array(values) - values[0]) // width
    histogram = np.zeros(bins, np.int64)
    np.add.at(histogram, where, counts)
    return tuple(float(values[0] + width * k) for k in range(bins + 1)), tuple(int(c) for c in histogram)


class WideCounter:
    """Counts 32- and 64-bit whole numbers and all floats."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._counts = np.zeros(2**KEY_BITS, np.int64)
        self._n = self._zeros = self._saturated = self._nans = 0
        self._moments: list[tuple[float, float, int]] = []
        self._low: Any = None
        self._high: Any = None

    @property
    def n(self) -> int:
        return self._n

    def add(self, voxels: Voxels) -> None:
        for block in _blocks(voxels, BLOCK):
            self._block(block)

    def take(self, tally: Tally) -> None:
        keys, counts = tally["keys"], tally["bins"]
        if keys.size and not 0 <= int(keys.min()) <= int(keys.max()) < self._counts.size:
            raise ValueError(f"bins up to {keys.max()}, not {self._counts.size}")
        self._counts[keys] += counts
        n, zeros, saturated, nans, known = (int(v) for v in tally["numbers"])
        self._n += n
        self._zeros += zeros
        self._saturated += saturated
        self._nans += nans
        if known:
            mean, squares = (float(v) for v in tally["moments"])
            self._moments.append((mean, squares, known))
            self._widen(*tally["ends"].astype(self._dtype, casting="equiv"))

    def tally(self) -> Tally:
        keys = np.flatnonzero(self._counts)
        mean, squares, known = _together(self._moments)
        return {
            "keys": keys.astype(np.int32),
            "bins": self._counts[keys],
            "numbers": np.array([self._n, self._zeros, self._saturated, self._nans, known], np.int64),
            "moments": np.array([mean, squares], np.float64),
            "ends": np.array([self._low, self._high] if known else [], self._dtype),
        }

    def _block(self, block: Voxels) -> None:
        self._n += block.size
        self._zeros += block.size - int(np.count_nonzero(block))
        if self._dtype.kind == "f":
            self._nans += int(np.isnan(block).sum())
            block = block[np.isfinite(block)]
        else:
            info = np.iinfo(self._dtype)
            self._saturated += int((block == info.max).sum()) + (int((block == info.min).sum()) if info.min else 0)
        if block.size == 0:
            return
        self._widen(block.min(), block.max())
        numbers = block.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = float(numbers.mean())
            self._moments.append((mean, float(np.square(numbers - mean).sum()), numbers.size))
        numbers += 0.0  # -0.0 becomes 0.0
        self._counts += np.bincount(_key(numbers), minlength=2**KEY_BITS)

    def _widen(self, low: Any, high: Any) -> None:
        self._low = low.item() if self._low is None else min(self._low, low.item())
        self._high = high.item() if self._high is None else max(self._high, high.item())

    def statistics(self, *, window: bool) -> Statistics:
        if self._n == 0:
            return Statistics()
        shares = Statistics(
            zero_share=self._zeros / self._n, saturated_share=self._saturated / self._n, nan_share=self._nans / self._n
        )
        mean, squares, known = _together(self._moments)
        if known == 0:
            return shares
        edges, histogram = self._bins()
        found = Statistics(
            minimum=_number(self._low),
            maximum=_number(self._high),
            mean=finite(mean),
            std=finite(math.sqrt(squares / known)),
            edges=edges,
            histogram=histogram,
            window=self._window() if window else None,
        )
        return found.model_copy(update=shares.model_dump(include={"zero_share", "saturated_share", "nan_share"}))

    def _bins(self) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """Neighbouring bins joined, each to about the same count, until there are at most BINS; counts stay exact."""
        present = np.flatnonzero(self._counts)
        seen = np.cumsum(self._counts[present])
        group = (seen - self._counts[present]) * BINS // int(seen[-1])
        first = np.flatnonzero(np.diff(group, prepend=-1))
        histogram = np.add.reduceat(self._counts[present], first)
        edges = [max(float(self._low), _lower_edge(int(present[f]))) for f in first] + [float(self._high)]
        return tuple(edges), tuple(int(c) for c in histogram)

    def _window(self) -> tuple[Number, Number]:
        counts = self._counts.copy()
        zero = int(_key(np.zeros(1))[0])
        # The bin of zero also holds subnormal numbers, which no microscope writes.
        counts[zero] = 0
        seen = np.cumsum(counts)
        if seen[-1] == 0:
            return _number(self._low), _number(self._high if self._high > self._low else self._low + 1)
        low, high = (_lower_edge(int(np.searchsorted(seen, q * int(seen[-1])))) for q in WINDOW)
        low, high = max(low, float(self._low)), min(max(high, low), float(self._high))
        if low >= high:
            low, high = float(self._low), float(self._high)
        return (low, high) if low < high else (low, low + 1.0)


def _blocks(voxels: Voxels, size: int) -> Iterator[Voxels]:
    """Flat pieces of about `size` voxels, copied only where they do not lie side by side."""
    if voxels.flags.c_contiguous:
        flat = voxels.reshape(-1)
        for start in range(0, flat.size, size):
            yield flat[start : start + size]
        return
    depth = max(1, size // voxels[0].size)
    for z in range(0, len(voxels), depth):
        yield np.ascontiguousarray(voxels[z : z + depth]).reshape(-1)


def _together(moments: list[tuple[float, float, int]]) -> tuple[float, float, int]:
    """Mean, squared deviations from it and number of all parts (Chan, Golub & LeVeque 1979), whatever their order."""
    mean = squares = 0.0
    known = 0
    for part_mean, part_squares, n in sorted(moments):
        both, delta = known + n, part_mean - mean
        mean += delta * n / both
        squares += part_squares + delta * delta * known * n / both
        known = both
    return mean, squares, known


def _key(numbers: NDArray[np.float64]) -> NDArray[np.int64]:
    """Order-preserving bin of every number: float64 bits with the sign turned round, negative ones mirrored."""
    bits = numbers.view(np.int64)
    ordered = np.where(bits < 0, ~bits, bits | np.int64(-(2**63))).view(np.uint64)
    return (ordered >> np.uint64(64 - KEY_BITS)).astype(np.int64)


def _lower_edge(key: int) -> float:
    """The smallest number of a bin."""
    ordered = key << (64 - KEY_BITS)
    bits = ordered & (2**63 - 1) if ordered >> 63 else ~ordered & (2**64 - 1)
    return float(np.array([bits], np.uint64).view(np.float64)[0])


def _number(value: float) -> Number:
    return exact(value) if isinstance(value, int) else finite(value)
