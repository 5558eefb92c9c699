"""What can't be answered.

EmporterError
├── NotInCatalogError    no such volume, revision or job
└── InvalidQueryError    a filter, sort or cursor that makes no sense
The database's own trouble is `database.DatabaseUnavailableError`.
"""

from __future__ import annotations

from emporter_contracts.errors import EmporterError


class NotInCatalogError(EmporterError):
    """The catalog has no such volume, revision or job."""

    code = "not_found"


class InvalidQueryError(EmporterError):
    """A filter, sort or cursor that makes no sense."""

    code = "invalid_request"


class AnswerTooLargeError(EmporterError):
    """An answer that no message of the bus can carry."""

    code = "answer_too_large"
