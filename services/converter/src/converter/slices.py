"""Facts about every slice z of level 0, gathered in the ordered pass that hashes its voxels: nothing is read anew.

A slice is compared with the three before it on a *probe*: its central window, binned, less its mean and over its deviation, so
that brightness and contrast drop out; clipped voxels, which show no tissue, are left out. What is kept of a slice is a few
numbers; of voxels, four probes.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from converter.clipping import Crest
from emporter_contracts.geometry import Shape3

PROBE_EDGE = 256
"""Voxels along y and x of the window that is compared: at 4 to 10 nm it shows a few micrometres of tissue, enough structure."""
BIN = 2
"""Voxels along y and x that are averaged into one of a probe where the window is large enough: shot noise halves."""
LAGS = 3
"""How many slices back each is compared: a lost slice makes neighbours look like slices two apart, so those are known too."""
SAMPLED = 2**18
"""Voxels of a slice its mean and deviation are taken of, whole rows evenly spaced: a 0.2 % standard error of the deviation."""
SPARSE = 8
"""Every so many of a large slice's sampled voxels tell whether its largest value is a spike, which has to be of some percent."""
LEAST_OVERLAP = 0.5
"""Share of the window two slices must both show once a shift is undone: small parts are alike by chance."""

Voxels = NDArray[Any]
Probe = NDArray[np.float32]
Shown = NDArray[np.bool_]


@dataclass(slots=True)
class SliceFacts:
    """One entry per slice z in every list. `top` is the largest value (NaN: none is a number), `saturated_share` what is clipped
    there. `likeness[k][z]` is the correlation of z with z - k - 1, -1 to 1; None where there is none. `shift` (y, x voxels) is
    how far z lies from z - 1, `aligned` their correlation once that is undone.
    """

    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    zero_share: list[float] = field(default_factory=list)
    saturated_share: list[float] = field(default_factory=list)
    top: list[float] = field(default_factory=list)
    crc32c: list[int] = field(default_factory=list)
    constant: list[bool] = field(default_factory=list)
    likeness: tuple[list[float | None], ...] = field(default_factory=lambda: tuple([] for _ in range(LAGS)))
    shift: list[tuple[float, float]] = field(default_factory=list)
    aligned: list[float | None] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """`slices.json`."""
        return {
            "version": 1,
            "mean": _short(self.mean),
            "std": _short(self.std),
            "zero_share": _short(self.zero_share),
            "saturated_share": _short(self.saturated_share),
            "top": _short(self.top),
            "crc32c": [f"{c:08x}" for c in self.crc32c],
            "constant": self.constant,
            "likeness": [_short(lag) for lag in self.likeness],
            "shift": [[round(y, 2), round(x, 2)] for y, x in self.shift],
            "aligned": _short(self.aligned),
        }


class SliceCounter:
    """Takes the voxels of one level, box after box, and gives the facts of every slice. Boxes are whole in x and follow one
    another in y: whole slices, rows of one, or bands of rows of several.
    """

    def __init__(self, shape: Shape3, dtype: np.dtype[Any]) -> None:
        self._shape = shape
        self._window = _window(shape)
        self._bin = BIN if min(w.stop - w.start for w in self._window) >= PROBE_EDGE else 1
        self._step = max(1, -(-shape[1] * shape[2] // SAMPLED))
        self._sparse = SPARSE if shape[1] * shape[2] > SAMPLED // SPARSE else 1
        self._dtype = dtype
        self._open: list[_Slice] = []
        self._probes: deque[_Seen] = deque(maxlen=LAGS)
        self.facts = SliceFacts()

    def add(self, voxels: Voxels) -> None:
        """The next box."""
        if not self._open:
            self._open = [_Slice(self._window, self._dtype) for _ in voxels]
        # Numbers near the end of a float's range have a deviation past it; such a slice is told as unknown, not refused.
        with np.errstate(over="ignore", invalid="ignore"):
            for one, plane in zip(self._open, voxels, strict=True):
                one.take(plane, self._step, self._sparse)
                if one.rows == self._shape[1]:
                    self._end(one)
        if self._open[0].rows == self._shape[1]:
            self._open = []

    def _end(self, one: _Slice) -> None:
        """All rows of a slice were seen."""
        facts, size = self.facts, self._shape[1] * self._shape[2]
        mean = one.sum / one.n if one.n else 0.0
        facts.mean.append(mean)
        facts.std.append(math.sqrt(max(0.0, one.squares / one.n - mean * mean)) if one.n else 0.0)
        facts.zero_share.append(one.zeros / size)
        clipped = one.crest.clipped()
        facts.saturated_share.append(clipped / size)
        facts.top.append(math.nan if one.crest.top is None else float(one.crest.top))
        facts.crc32c.append(one.crc)
        facts.constant.append(one.low is None or bool(one.low == one.high))
        shown = one.seen != np.float32(one.crest.top) if clipped else None
        now = _Seen.of(*_binned(one.seen, shown, self._bin))
        before = list(self._probes)
        for k in range(LAGS):
            facts.likeness[k].append(now.likeness(before[-1 - k]) if k < len(before) else None)
        shift, aligned = now.shift(before[-1]) if before else ((0.0, 0.0), None)
        facts.shift.append((shift[0] * self._bin, shift[1] * self._bin))
        facts.aligned.append(aligned)
        self._probes.append(now)


class _Slice:
    """One slice of which rows are still to come, in order."""

    def __init__(self, window: tuple[slice, slice], dtype: np.dtype[Any]) -> None:
        self._window = window
        self.rows = self.zeros = self.crc = self.n = 0
        self.crest = Crest(dtype)
        self.sum = self.squares = 0.0
        self.low: Any = None
        self.high: Any = None
        y, x = window
        self.seen = np.zeros((y.stop - y.start, x.stop - x.start), np.float32)

    def take(self, plane: Voxels, step: int, sparse_step: int) -> None:
        """The next rows; every `step`-th of the slice is sampled, of which every `sparse_step`-th voxel tells of a spike."""
        first = self.rows
        self.crc = google_crc32c.extend(self.crc, plane.tobytes())
        self.zeros += plane.size - int(np.count_nonzero(plane))
        sample = plane[(-first) % step :: step].astype(np.float64)
        sparse = sample[:, ::sparse_step].reshape(-1)
        if plane.dtype.kind == "f":
            sample, sparse = sample[np.isfinite(sample)], sparse[np.isfinite(sparse)]
        self.crest.add(plane, sparse)
        if sample.size:
            self.n += sample.size
            self.sum += float(sample.sum())
            self.squares += float(np.square(sample).sum())
            low, high = sample.min(), sample.max()
            self.low = low if self.low is None else min(self.low, low)
            self.high = high if self.high is None else max(self.high, high)
        y, x = self._window
        a, b = max(first, y.start), min(first + len(plane), y.stop)
        if a < b:
            self.seen[a - y.start : b - y.start] = np.nan_to_num(plane[a - first : b - first, x].astype(np.float32))
        self.rows += len(plane)


@dataclass(frozen=True, slots=True)
class _Seen:
    """The probe of one slice: mean 0, deviation 1, and 0 where it is not `shown`; and its transform. None where the slice has no
    structure.
    """

    probe: Probe | None
    spectrum: NDArray[np.complex64] | None
    shown: Shown | None = None

    @classmethod
    def of(cls, probe: Probe, shown: Shown | None) -> _Seen:
        largest = float(np.abs(probe).max())
        if largest > 0:
            # Squares of the largest integers are past what 32 bits hold.
            probe = probe / np.float32(largest)
        known = probe if shown is None else probe[shown]
        if known.size == 0:
            return cls(None, None)
        middle, deviation = known.mean(), float(known.std())
        if not math.isfinite(deviation) or deviation < 1e-6:
            return cls(None, None)
        probe = ((probe - middle) / deviation).astype(np.float32)
        if shown is not None:
            probe[~shown] = 0
        return cls(probe, np.fft.rfft2(probe).astype(np.complex64), shown)

    def likeness(self, other: _Seen) -> float | None:
        """The correlation of what both show."""
        if self.probe is None or other.probe is None:
            return None
        if self.shown is None and other.shown is None:
            return float(np.vdot(self.probe, other.probe)) / self.probe.size
        both = np.ones(self.probe.shape, np.bool_)
        for shown in (self.shown, other.shown):
            both &= True if shown is None else shown
        if both.sum() < LEAST_OVERLAP * both.size:
            return None
        return _correlation(self.probe[both], other.probe[both])

    def shift(self, other: _Seen) -> tuple[tuple[float, float], float | None]:
        """By how much (y, x) this lies past `other` (peak of the phase correlation), and their correlation there."""
        if self.probe is None or other.probe is None or self.spectrum is None or other.spectrum is None:
            return (0.0, 0.0), None
        cross = self.spectrum * np.conj(other.spectrum)
        # Whitened by half: white enough for a sharp peak, and the noise of high frequencies does not drown it.
        cross /= np.sqrt(np.abs(cross)) + 1e-6
        peaks = np.fft.irfft2(cross, s=self.probe.shape)
        y, x = np.unravel_index(int(np.argmax(peaks)), peaks.shape)
        height, width = self.probe.shape
        dy, dx = int(y) - height * (y > height // 2), int(x) - width * (x > width // 2)
        return (float(dy), float(dx)), _overlap(self.probe, other.probe, int(dy), int(dx))


def _overlap(a: Probe, b: Probe, dy: int, dx: int) -> float | None:
    """The correlation of what both show when `a` is moved back by (dy, dx); None where that is too little."""
    height, width = a.shape
    if (height - abs(dy)) * (width - abs(dx)) < LEAST_OVERLAP * a.size:
        return None
    here = a[max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]
    there = b[max(0, -dy) : height + min(0, -dy), max(0, -dx) : width + min(0, -dx)]
    return _correlation(here, there)


def _correlation(here: Probe, there: Probe) -> float | None:
    here, there = here - here.mean(), there - there.mean()
    norm = float(np.sqrt(np.square(here).sum() * np.square(there).sum()))
    return float((here * there).sum()) / norm if norm > 0 else None


def _window(shape: Shape3) -> tuple[slice, slice]:
    def middle(n: int) -> slice:
        edge = min(n, PROBE_EDGE)
        return slice((n - edge) // 2, (n - edge) // 2 + edge)

    return middle(shape[1]), middle(shape[2])


def _binned(window: Probe, shown: Shown | None, by: int) -> tuple[Probe, Shown | None]:
    """The mean of `by` x `by` voxels each, shown where most of them are."""
    if by == 1:
        return window, shown
    means = _means(window, by)
    return means, None if shown is None else _means(shown, by) > 0.5


def _means(plane: Voxels, by: int) -> Probe:
    y, x = (n // by for n in plane.shape)
    means: Probe = plane[: y * by, : x * by].reshape(y, by, x, by).mean(axis=(1, 3), dtype=np.float32)
    return means


def _short(values: list[Any]) -> list[float | None]:
    return [None if v is None or not math.isfinite(v) else float(f"{v:.6g}") for v in values]
