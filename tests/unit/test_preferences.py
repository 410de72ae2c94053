"""Which preference is in force."""

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
def test_the_newer_wins_and_a_decline_at_a_tie(
    new: Preference, old: Preference | None, replaces: bool
) -> None:
    """A later timestamp replaces; of two equal ones a decline; a repeat replaces nothing."""
    assert new.supersedes(old) is replaces


def update(timestamp: datetime, **wanted: bool) -> PreferenceUpdate:
    """An update of Leela's."""
    return PreferenceUpdate("leela", timestamp, wanted)


def test_a_first_update_is_applied() -> None:
    """What a recipient says for the first time comes into force."""
    assert apply_update(update(EARLY, personal=True, marketing=False), {}) == UpdatedPreferences(
        {"personal": Preference(True, EARLY), "marketing": Preference(False, EARLY)}, applied=True
    )


def test_an_older_update_changes_nothing() -> None:
    """An update that arrives after a newer one is answered with what is in force."""
    in_force = {"personal": Preference(False, LATE)}
    assert apply_update(update(EARLY, personal=True), in_force) == UpdatedPreferences(
        in_force, applied=False
    )


def test_an_exact_repeat_counts_as_applied() -> None:
    """A repeat of what is in force is answered as the first was."""
    in_force = {"personal": Preference(False, EARLY)}
    assert apply_update(update(EARLY, personal=False), in_force) == UpdatedPreferences(
        in_force, applied=True
    )


def test_the_same_value_with_an_older_timestamp_is_not_applied() -> None:
    """The timestamp in force is another, even where the value is the same."""
    in_force = {"personal": Preference(True, LATE)}
    assert not apply_update(update(EARLY, personal=True), in_force).applied


def test_each_type_is_ordered_on_its_own() -> None:
    """An update may come into force for one type and be too old for another."""
    in_force = {"personal": Preference(False, LATE), "marketing": Preference(True, EARLY)}
    assert apply_update(update(LATE, personal=True, marketing=False), in_force) == (
        UpdatedPreferences(
            {"personal": Preference(False, LATE), "marketing": Preference(False, LATE)},
            applied=False,
        )
    )


def test_a_type_that_is_not_named_is_left_alone() -> None:
    """Omitted means unchanged."""
    in_force = {"freight": Preference(False, LATE)}
    updated = apply_update(update(EARLY, personal=True), in_force)
    assert updated.preferences == in_force | {"personal": Preference(True, EARLY)}
    assert updated.applied


def test_what_was_in_force_is_left_as_it_is() -> None:
    """The answer is a new value; the one before may be in use elsewhere."""
    in_force = {"personal": Preference(True, EARLY)}
    apply_update(update(LATE, personal=False), in_force)
    assert in_force == {"personal": Preference(True, EARLY)}


_names = st.sampled_from(["personal", "marketing", "freight"])
_updates = st.builds(
    PreferenceUpdate,
    st.just("leela"),
    st.sampled_from([EARLY, LATE, LATE + timedelta(days=1)]),
    st.dictionaries(_names, st.booleans()),
)


def _end_state(updates: list[PreferenceUpdate]) -> Preferences:
    in_force: Preferences = {}
    for each in updates:
        in_force = apply_update(each, in_force).preferences
    return in_force


@given(st.lists(_updates, max_size=8), st.data())
def test_order_and_repeats_do_not_matter(
    updates: list[PreferenceUpdate], data: st.DataObject
) -> None:
    """Any number of updates end in the same state in any order, and however often."""
    repeats = data.draw(st.lists(st.sampled_from(updates), max_size=8)) if updates else []
    shuffled = data.draw(st.permutations(updates + repeats))
    assert _end_state(shuffled) == _end_state(updates)
