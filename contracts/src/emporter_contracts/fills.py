"""The value a volume's voxels have where its source stored nothing: in an image they are no foreground (decisions/0022)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Fill = int | float | Annotated[str, Field(pattern=r"^(-?[0-9]+|NaN|-?Infinity)$")]
"""A value of the volume's dtype; as text where JSON has no such number, or not exactly. 0 where the format knows of none."""
