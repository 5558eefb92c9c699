"""What OME-XML says of how an image was recorded: Instrument, Objective, Detector, Channel, Plane.

Source: OME schema 2016-06. What is of no such type counts as not said: it is kept verbatim beside.
"""

from __future__ import annotations

import math
from datetime import datetime
from xml.etree import ElementTree as ET

from emporter_contracts.acquisition import Acquisition

SECONDS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "us": 1e-6, "ns": 1e-9, "ps": 1e-12, "min": 60.0, "h": 3600.0, "d": 86400.0}
"""Of ExposureTimeUnit; the schema's default is the second."""
LONGEST_TEXT = 500
"""Of a name."""


def acquisitions(root: ET.Element, image: ET.Element, pixels: ET.Element, channels: int) -> tuple[Acquisition, ...]:
    """By channel."""
    described = _children(pixels, "Channel")
    return tuple(_of_channel(root, image, pixels, described[c] if c < len(described) else None, c) for c in range(channels))


def _of_channel(root: ET.Element, image: ET.Element, pixels: ET.Element, channel: ET.Element | None, c: int) -> Acquisition:
    instrument = _referred(root, "Instrument", _child(image, "InstrumentRef"))
    settings = next((e for e in (_child(image, "ObjectiveSettings"), _child(image, "ObjectiveRef")) if e is not None), None)
    objective = _referred(instrument, "Objective", settings)
    detector = _referred(instrument, "Detector", _child(channel, "DetectorSettings"))
    date = _child(image, "AcquisitionDate")
    bits = _number(pixels, "SignificantBits")
    return Acquisition.said(
        "file",
        acquired_at=_date(date.text if date is not None else None),
        microscope=_made(_child(instrument, "Microscope")),
        objective=_made(objective),
        nominal_magnification=_number(objective, "NominalMagnification"),
        detector=_made(detector),
        exposure_seconds=_exposure(pixels, c),
        channel=(channel.get("Name", "").strip()[:LONGEST_TEXT] if channel is not None else None),
        significant_bits=int(bits) if bits is not None and bits == int(bits) and bits <= 64 else None,
    )


def _exposure(pixels: ET.Element, c: int) -> float | None:
    """Of the channel's first plane."""
    plane = next((p for p in _children(pixels, "Plane") if p.get("TheC", "0") == str(c)), None)
    time = _number(plane, "ExposureTime")
    factor = SECONDS.get(plane.get("ExposureTimeUnit", "s")) if plane is not None else None
    return time * factor if time is not None and factor is not None and time * factor > 0 else None


def _referred(parent: ET.Element | None, tag: str, reference: ET.Element | None) -> ET.Element | None:
    if reference is None:
        return None
    return next((e for e in _children(parent, tag) if e.get("ID") == reference.get("ID")), None)


def _made(element: ET.Element | None) -> str | None:
    """Manufacturer and model."""
    if element is None:
        return None
    return " ".join(filter(None, (element.get("Manufacturer", "").strip(), element.get("Model", "").strip())))[:LONGEST_TEXT]


def _number(element: ET.Element | None, key: str) -> float | None:
    try:
        number = float(element.get(key, "")) if element is not None else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None


def _date(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat((text or "").strip())
    except ValueError:
        return None


def _child(element: ET.Element | None, tag: str) -> ET.Element | None:
    return next(iter(_children(element, tag)), None)


def _children(element: ET.Element | None, tag: str) -> list[ET.Element]:
    """Of that name, whatever version of the schema they are of."""
    return [child for child in element if child.tag.rpartition("}")[2] == tag] if element is not None else []
