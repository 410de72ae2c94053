"""The rules of a preference update."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galaxy_express.preferences import (
    Preference,
    Preferences,
    PreferenceUpdate,
    UpdatedPreferences,
    apply_update,
)

EARLY = datetime(2142, 3, 1, tzinfo=UTC)
LATE = EARLY + timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("new", "old", "replaces"),
    [
        (Preference(True, EARLY), None, True),
        (Preference(False, EARLY), None, True),
        (Preference(True, LATE), Preference(False, EARLY), True),
        (Preference(False, LATE), Preference(True, EARLY), True),
        (Preference(True, LATE), Preference(True, EARLY), True),
        (Preference(True, EARLY), Preference(False, LATE), False),
        (Preference(False, EARLY), Preference(True, LATE), False),
        (Preference(False, EARLY), Preference(True, EARLY), True),
        (Preference(True, EARLY), Preference(False, EARLY), False),
        (Preference(True, EARLY), Preference(True, EARLY), False),
        (Preference(False, EARLY), Preference(False, EARLY), False),
    ],
)
def test_newer_wins_and_a_decline_wins_a_tie(
    new: Preference, old: Preference | None, replaces: bool
) -> None:
    """The later timestamp wins; at equal timestamps a decline wins; a repeat changes nothing."""
    assert new.supersedes(old) is replaces


def update(timestamp: datetime, **wanted: bool) -> PreferenceUpdate:
    """An update from Leela."""
    return PreferenceUpdate("leela", timestamp, wanted)


def test_first_update_is_applied() -> None:
    """A recipient's first choice becomes current."""
    assert apply_update(update(EARLY, personal=True, marketing=False), {}) == UpdatedPreferences(
        {"personal": Preference(True, EARLY), "marketing": Preference(False, EARLY)}, applied=True
    )


def test_older_update_changes_nothing() -> None:
    """An update that arrives after a newer one isn't applied, and returns the current state."""
    current = {"personal": Preference(False, LATE)}
    assert apply_update(update(EARLY, personal=True), current) == UpdatedPreferences(
        current, applied=False
    )


def test_exact_repeat_counts_as_applied() -> None:
    """A repeat of the current preferences gets the same result as the first update."""
    current = {"personal": Preference(False, EARLY)}
    assert apply_update(update(EARLY, personal=False), current) == UpdatedPreferences(
        current, applied=True
    )


def test_same_value_with_an_older_timestamp_is_not_applied() -> None:
    """An older update isn't applied, even if its value is the current one."""
    current = {"personal": Preference(True, LATE)}
    assert not apply_update(update(EARLY, personal=True), current).applied


def test_each_type_is_ordered_on_its_own() -> None:
    """An update may become current for one type and be too old for another."""
    current = {"personal": Preference(False, LATE), "marketing": Preference(True, EARLY)}
    assert apply_update(update(LATE, personal=True, marketing=False), current) == (
        UpdatedPreferences(
            {"personal": Preference(False, LATE), "marketing": Preference(False, LATE)},
            applied=False,
        )
    )


def test_omitted_type_is_unchanged() -> None:
    """A type that an update doesn't name is unchanged."""
    current = {"freight": Preference(False, LATE)}
    updated = apply_update(update(EARLY, personal=True), current)
    assert updated.preferences == current | {"personal": Preference(True, EARLY)}
    assert updated.applied


def test_current_preferences_are_not_modified() -> None:
    """The result is a new object: the given one may be in use elsewhere."""
    current = {"personal": Preference(True, EARLY)}
    apply_update(update(LATE, personal=False), current)
    assert current == {"personal": Preference(True, EARLY)}


_names = st.sampled_from(["personal", "marketing", "freight"])
_updates = st.builds(
    PreferenceUpdate,
    st.just("leela"),
    st.sampled_from([EARLY, LATE, LATE + timedelta(days=1)]),
    st.dictionaries(_names, st.booleans()),
)


def _end_state(updates: list[PreferenceUpdate]) -> Preferences:
    current: Preferences = {}
    for each in updates:
        current = apply_update(each, current).preferences
    return current


@given(st.lists(_updates, max_size=8), st.data())
def test_order_and_repeats_do_not_matter(
    updates: list[PreferenceUpdate], data: st.DataObject
) -> None:
    """Updates end in the same state in whatever order, and however often, they arrive."""
    repeats = data.draw(st.lists(st.sampled_from(updates), max_size=8)) if updates else []
    shuffled = data.draw(st.permutations(updates + repeats))
    assert _end_state(shuffled) == _end_state(updates)
