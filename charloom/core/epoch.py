"""``SOURCE_DATE_EPOCH``: the date that reproducible files may carry (https://reproducible-builds.org)."""

from __future__ import annotations

from datetime import UTC, datetime

from charloom.core.errors import UserError


def moment(epoch: str) -> datetime:
    """The variable's value, seconds since 1970, as a moment in UTC.

    Raises:
        UserError: it is not a number of seconds.
    """
    try:
        return datetime.fromtimestamp(int(epoch), UTC)
    except (ValueError, OverflowError, OSError):
        raise UserError(
            f"SOURCE_DATE_EPOCH={epoch}: is not a number of seconds since 1970; correct it or unset it"
        ) from None
