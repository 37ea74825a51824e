"""Why a value was not written, or not read. Texts name types and no content."""

from __future__ import annotations


class UnfaithfulError(Exception):
    """The value could not be read back as what it is."""


class UnreadableError(Exception):
    """What was stored is none of ours, or is of a class that this process does not have."""
