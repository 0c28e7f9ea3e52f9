"""Errors of the ``flight`` command that a person can act on."""

from __future__ import annotations


class CommandError(Exception):
    """A command cannot do what was asked; the message says what is missing and what to type."""
