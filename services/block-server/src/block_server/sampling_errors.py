"""Why a sample can't be taken.

BlockServerError
├── LabelsMisplacedError        409  the labels named lie on another grid than the image at that level
└── UnsatisfiableSampleError    422  there are not as many boxes as were asked for
"""

from __future__ import annotations

from block_server.errors import BlockServerError


class LabelsMisplacedError(BlockServerError):
    code = "labels_not_aligned"
    status = 409


class UnsatisfiableSampleError(BlockServerError):
    code = "sample_unsatisfiable"
    status = 422
