"""How a volume was recorded, in typed words, as far as its file or archive says it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import Field

from emporter_contracts.commands import Message
from emporter_contracts.geometry import Provider

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Acquisition(Message):
    """None is what nobody says; `said_by` names who said each of the others. Times without a zone are as the file has them."""

    acquired_at: datetime | None = None
    microscope: str | None = None
    """Manufacturer and model."""
    objective: str | None = None
    nominal_magnification: Positive | None = None
    detector: str | None = None
    exposure_seconds: Positive | None = None
    """Of one plane."""
    channel: str | None = None
    significant_bits: Annotated[int, Field(ge=1, le=1024)] | None = None
    said_by: dict[str, Provider] = {}

    @classmethod
    def said(cls, by: Provider, **values: Any) -> Self:
        """All of `values` from one provider; None and empty texts count as not said."""
        known = {name: value for name, value in values.items() if value is not None and value != ""}
        return cls.model_validate({**known, "said_by": dict.fromkeys(known, by)})

    def or_else(self, other: Acquisition) -> Acquisition:
        """This, with `other` where this one says nothing."""
        ours, theirs = self.model_dump(exclude={"said_by"}), other.model_dump(exclude={"said_by"})
        merged = {name: theirs[name] if value is None else value for name, value in ours.items()}
        return Acquisition(**merged, said_by={**other.said_by, **self.said_by})
