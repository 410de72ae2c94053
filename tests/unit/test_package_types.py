"""The registry of package types."""

import pytest

from galaxy_express.package_types import PACKAGE_TYPES, PackageType, PackageTypeRegistry


def test_todays_types() -> None:
    """Personal and marketing are wanted by default, may be declined, and must be named."""
    assert list(PACKAGE_TYPES) == [
        PackageType("personal", True, True, True),
        PackageType("marketing", True, True, True),
    ]


def test_a_later_type_may_be_left_unnamed() -> None:
    """A type that is only given a name is wanted, declinable, and optional in updates."""
    assert PackageType("freight") == PackageType("freight", True, True, False)


@pytest.mark.parametrize("name", ["a", "personal", "type_2", "x" * 63])
def test_a_name_is_lower_case_letters_digits_and_underscores(name: str) -> None:
    """A well-formed name is taken as it is, and its preference field is made of it."""
    assert PackageType(name).preference_field == f"{name}_preference"


@pytest.mark.parametrize(
    "name", ["", "Personal", "2nd", "_x", "with space", "a-b", "a/b", "é", "a\n", "x" * 64]
)
def test_a_malformed_name_is_refused(name: str) -> None:
    """A name that could not be a field, a key and a label stops the start."""
    with pytest.raises(ValueError, match="the name must match"):
        PackageType(name)


def test_what_cannot_be_declined_must_be_wanted() -> None:
    """A type that is unwanted by default and can't be declined makes no sense."""
    with pytest.raises(ValueError, match=r"'tax'.*must be wanted"):
        PackageType("tax", wanted_by_default=False, declinable=False)


@pytest.mark.parametrize(
    ("package_type", "said", "wanted"),
    [
        (PackageType("a"), None, True),
        (PackageType("a"), True, True),
        (PackageType("a"), False, False),
        (PackageType("a", wanted_by_default=False), None, False),
        (PackageType("a", wanted_by_default=False), True, True),
        (PackageType("a", wanted_by_default=False), False, False),
        (PackageType("a", declinable=False), None, True),
        (PackageType("a", declinable=False), True, True),
        # Said while it was still possible to say so.
        (PackageType("a", declinable=False), False, True),
    ],
)
def test_what_a_recipient_said_decides(
    package_type: PackageType, said: bool | None, wanted: bool
) -> None:
    """What was said holds, then the default; what can't be declined is always wanted."""
    assert package_type.is_wanted(said) is wanted


def test_a_registry_keeps_the_order_of_registration() -> None:
    """Types come in the order in which they were given, and by name."""
    registry = PackageTypeRegistry([PackageType("b"), PackageType("a")])
    assert registry.names == ("b", "a")
    assert [package_type.name for package_type in registry] == ["b", "a"]
    assert registry["a"] == PackageType("a")


def test_a_registry_refuses_a_name_twice() -> None:
    """Two types of one name can't be told apart."""
    with pytest.raises(ValueError, match="'a' is registered twice"):
        PackageTypeRegistry([PackageType("a"), PackageType("a", declinable=False)])


def test_a_registry_is_never_empty() -> None:
    """A service without any type could only refuse."""
    with pytest.raises(ValueError, match="at least one"):
        PackageTypeRegistry([])
