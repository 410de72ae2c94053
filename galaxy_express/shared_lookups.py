"""Shared lookups: many concurrent lookups, few queries.

A query costs a round trip to the database, whether it looks up one key or hundreds. Keys that are
requested while others are looked up therefore share the next query, and a lone key is looked up at
once.
"""

import copy
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Generic, TypeVar

import gevent
from gevent.event import Event

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

# While one query waits, for a slow server for example, others can go on.
QUERIES = 2


class _Batch(Generic[Key, Value]):
    """Keys that share a query, and the event that their waiters wait for.

    :ivar error: None once there are values.
    """

    __slots__ = ("done", "error", "keys", "values")

    def __init__(self) -> None:
        self.keys: set[Key] = set()
        self.values: Mapping[Key, Value] = {}
        self.error: Exception | None = RuntimeError("the query was interrupted")
        self.done = Event()


class SharedLookups(Generic[Key, Value]):
    """Looks up keys for greenlets of one thread.

    :param find_one: returns the value of a key.
    :param find_many: returns the values of keys; every key must have one.
    """

    def __init__(
        self,
        find_one: Callable[[Key], Value],
        find_many: Callable[[Collection[Key]], Mapping[Key, Value]],
    ) -> None:
        self._find_one = find_one
        self._find_many = find_many
        self._free = QUERIES
        self._next: _Batch[Key, Value] | None = None

    def find(self, key: Key) -> Value:
        """Return the value of a key, from a query that starts after this call.

        :raises Exception: what ``find_one`` or ``find_many`` raised.
        :raises RuntimeError: if the greenlet of ``find_many`` was killed, or timed out.
        """
        if self._free:
            self._free -= 1
            try:
                return self._find_one(key)
            finally:
                self._start_next()
        if self._next is None:
            self._next = _Batch()
        batch = self._next
        batch.keys.add(key)
        batch.done.wait()
        if batch.error is not None:
            # Raising an exception changes it, and others raise it as well.
            raise copy.copy(batch.error) from batch.error
        return batch.values[key]

    def _start_next(self) -> None:
        """Look up the keys that are waiting, after another query has ended."""
        if self._next is None:
            self._free += 1
        else:
            gevent.spawn(self._find_batch, self._next)
            self._next = None

    def _find_batch(self, batch: _Batch[Key, Value]) -> None:
        try:
            batch.values = self._find_many(batch.keys)
        except Exception as error:  # whatever it is, it belongs to the waiting lookups
            batch.error = error
        else:
            batch.error = None
        finally:  # the greenlet can be killed
            batch.done.set()
            self._start_next()
