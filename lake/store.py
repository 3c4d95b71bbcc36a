"""Where objects live: one small interface, the same for a local directory and for S3.

Keys are relative, `/` separates, no key begins or ends with one. An object is seen whole or not at all.

    StoreError            the store refused or could not be reached; one line that says what to do
      ObjectExists        create-if-absent found one there
      ObjectMissing       nothing under that key
      StoreUnavailable    no answer, or one that may pass: the operation may or may not have happened
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from settings.errors import FlowlakeError


class StoreError(FlowlakeError):
    """The store refused, or could not be reached; one line that says what to do."""


class ObjectExists(StoreError):
    """Create-if-absent found an object under that key."""


class ObjectMissing(StoreError):
    """There is no object under that key."""


class StoreUnavailable(StoreError):
    """No answer, or one that may pass. Whether the operation happened is not known."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    key: str
    size: int


class Store(Protocol):
    def put_if_absent(self, key: str, body: bytes) -> None:
        """Create the object, durably. Raises ObjectExists where there is one, of whoever's making."""
        ...

    def put(self, key: str, body: bytes) -> None:
        """Create or replace, durably: for hints only (`_head`)."""
        ...

    def get(self, key: str) -> bytes:
        """The whole object. Raises ObjectMissing."""
        ...

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectInfo]:
        """Objects whose key begins with prefix and sorts after start_after, in order of their keys."""
        ...

    def delete(self, key: str) -> None:
        """Remove; nothing happens where there is none."""
        ...
