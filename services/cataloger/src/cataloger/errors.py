"""What can't be answered.

EmporterError
├── NotInCatalogError    no such volume, revision, job or subscription
├── InvalidQueryError    a filter, sort or cursor that makes no sense
│   └── TooSlowError     one that no index answers
├── InvalidRecordError   a record that breaks its schema, or a change against the rules
├── AlreadyThereError    a volume that can't be entered twice, or is not an outside script's to change
├── DeniedByPolicyError  a change that a rule of the operator's policy refuses
├── WriteRefusedError    a write to a catalog that takes none from everybody
├── NotAuthorizedError   a write without the right token
└── AnswerTooLargeError  an answer that no message of the bus can carry
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


class TooSlowError(InvalidQueryError):
    """A question no index answers, of a catalog too large to look at every record."""

    code = "too_slow"


class AnswerTooLargeError(EmporterError):
    """An answer that no message of the bus can carry."""

    code = "answer_too_large"


class InvalidRecordError(EmporterError):
    """A record that breaks its schema, or a change against the rules of a job."""

    code = "invalid_record"


class AlreadyThereError(EmporterError):
    """A volume that can't be entered twice, or is not an outside script's to change."""

    code = "conflict"


class DeniedByPolicyError(EmporterError):
    """A change that a rule of the operator's policy refuses; the message names the rule."""

    code = "policy_denied"


class WriteRefusedError(EmporterError):
    """A catalog that others can reach takes no writes without a token."""

    code = "write_refused"


class NotAuthorizedError(EmporterError):
    """The token is missing or wrong."""

    code = "not_authorized"
