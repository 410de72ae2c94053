"""The rules of a preference update: which preference is current, for each package type."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Preference:
    """A recipient's choice for one package type, and its timestamp in UTC."""

    wanted: bool
    timestamp: datetime

    def supersedes(self, other: "Preference | None") -> bool:
        """Return whether this replaces ``other`` as the current preference.

        The last writer wins, by timestamp and not by arrival. Of two preferences with the
        same timestamp, a decline wins. This is a total order, so a set of updates ends in
        the same state whatever the order, and however often, they arrive (a
        last-writer-wins register; Shapiro et al., "Conflict-free Replicated Data Types",
        2011).
        """
        if other is None:
            return True
        if self.timestamp == other.timestamp:
            return other.wanted and not self.wanted
        return self.timestamp > other.timestamp


#: A recipient's current preferences, by the name of the package type. A type that the
#: recipient never made a choice for is absent.
Preferences = Mapping[str, Preference]


@dataclass(frozen=True, slots=True)
class PreferenceUpdate:
    """A recipient's new preferences.

    :param timestamp: when the recipient made the choice, in UTC. It orders updates.
    :param wanted: whether each named package type is wanted, by the name of the type.
    """

    recipient_id: str
    timestamp: datetime
    wanted: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class UpdatedPreferences:
    """The result of an update.

    :param preferences: the current preferences.
    :param applied: whether every preference that the update named is now current, with its
        value and its timestamp. An exact repeat therefore gets the same result as the first
        update, until a newer one arrives.
    """

    preferences: Preferences
    applied: bool


@dataclass(frozen=True, slots=True)
class ReceivedUpdate:
    """An update in the history, and its result.

    :param received_at: when it was received, in UTC.
    :param applied: whether it was applied, as returned at the time.
    """

    update: PreferenceUpdate
    received_at: datetime
    applied: bool


def apply_update(update: PreferenceUpdate, current: Preferences) -> UpdatedPreferences:
    """Return the preferences after an update. ``current`` isn't modified."""
    preferences = dict(current)
    applied = True
    for package_type, wanted in update.wanted.items():
        preference = Preference(wanted, update.timestamp)
        if preference.supersedes(preferences.get(package_type)):
            preferences[package_type] = preference
        applied = applied and preferences[package_type] == preference
    return UpdatedPreferences(preferences, applied)


def is_repeat(update: PreferenceUpdate, current: Preferences) -> bool:
    """Return whether every preference that the update names is current already."""
    return all(
        current.get(package_type) == Preference(wanted, update.timestamp)
        for package_type, wanted in update.wanted.items()
    )
