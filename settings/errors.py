"""Errors that people can act on.

FlowlakeError       an expected failure: one line that says what to do; the command exits 1
  WrongUse          the command line or the settings are wrong; exits 2
  LogError          transport/log.py
  StoreError        lake/store.py
"""

from __future__ import annotations


class FlowlakeError(Exception):
    """An expected failure. Its text is one line that says what happened and what to do about it."""

    exit_code = 1


class WrongUse(FlowlakeError):
    """The command line or a setting cannot be meant."""

    exit_code = 2
