"""Preferences: which of a recipient's updates is in force, for each package type on its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Preference:
    """What a recipient said of one package type, and when (UTC)."""

    wanted: bool
    timestamp: datetime

    def supersedes(self, other: "Preference | None") -> bool:
        """Whether this replaces ``other`` as the preference in force.

        Last writer wins, by timestamp and not by arrival; of two with the same
        timestamp a decline wins. It is a total order, so any set of updates ends in
        the same state, in whatever order and however often they arrive (a
        last-writer-wins register; Shapiro et al., "Conflict-free Replicated Data
        Types", 2011).
        """
        if other is None:
            return True
        if self.timestamp == other.timestamp:
            return other.wanted and not self.wanted
        return self.timestamp > other.timestamp


#: A recipient's preferences in force, by the name of the package type.
#: A type of which the recipient never said anything is absent.
Preferences = Mapping[str, Preference]


@dataclass(frozen=True, slots=True)
class PreferenceUpdate:
    """A recipient's new preferences.

    :param timestamp: when the recipient said so (UTC); it orders updates.
    :param wanted: whether each named package type is wanted, by the type's name.
    """

    recipient_id: str
    timestamp: datetime
    wanted: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class UpdatedPreferences:
    """The answer to an update.

    :param preferences: what is in force now.
    :param applied: whether all that the update named is in force, with its value and
        its timestamp. So an exact repeat is answered as the first was, until a newer
        update arrives.
    """

    preferences: Preferences
    applied: bool


def apply_update(update: PreferenceUpdate, in_force: Preferences) -> UpdatedPreferences:
    """The preferences in force after an update; ``in_force`` is left as it is."""
    preferences = dict(in_force)
    applied = True
    for package_type, wanted in update.wanted.items():
        said = Preference(wanted, update.timestamp)
        if said.supersedes(preferences.get(package_type)):
            preferences[package_type] = said
        applied = applied and preferences[package_type] == said
    return UpdatedPreferences(preferences, applied)
