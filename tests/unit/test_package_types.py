"""The registry of package types."""

import pytest

from galaxy_express.package_types import PACKAGE_TYPES, PackageType, PackageTypeRegistry


def test_registered_types() -> None:
    """Personal and marketing are wanted by default, may be declined, and must be named."""
    assert list(PACKAGE_TYPES) == [
        PackageType("personal", True, True, True),
        PackageType("marketing", True, True, True),
    ]


def test_defaults_of_a_new_type() -> None:
    """A type with only a name is wanted by default, declinable, and optional in updates."""
    assert PackageType("freight") == PackageType("freight", True, True, False)


@pytest.mark.parametrize("name", ["a", "personal", "type_2", "x" * 63])
def test_valid_names(name: str) -> None:
    """A name has lower-case letters, digits and underscores; the field has it with a suffix."""
    assert PackageType(name).preference_field == f"{name}_preference"


@pytest.mark.parametrize(
    "name", ["", "Personal", "2nd", "_x", "with space", "a-b", "a/b", "é", "a\n", "x" * 64]
)
def test_invalid_names(name: str) -> None:
    """A name that can't be a field, a key and a label is an error."""
    with pytest.raises(ValueError, match="the name must match"):
        PackageType(name)


def test_type_that_cannot_be_declined_must_be_wanted() -> None:
    """A type that is unwanted by default and can't be declined is an error."""
    with pytest.raises(ValueError, match=r"'tax'.*must be wanted"):
        PackageType("tax", wanted_by_default=False, declinable=False)


@pytest.mark.parametrize(
    ("package_type", "choice", "wanted"),
    [
        (PackageType("a"), None, True),
        (PackageType("a"), True, True),
        (PackageType("a"), False, False),
        (PackageType("a", wanted_by_default=False), None, False),
        (PackageType("a", wanted_by_default=False), True, True),
        (PackageType("a", wanted_by_default=False), False, False),
        (PackageType("a", declinable=False), None, True),
        (PackageType("a", declinable=False), True, True),
        # Declined while the type could still be declined.
        (PackageType("a", declinable=False), False, True),
    ],
)
def test_recipient_choice_overrides_the_default(
    package_type: PackageType, choice: bool | None, wanted: bool
) -> None:
    """The recipient's choice decides, then the default; some types can't be declined."""
    assert package_type.is_wanted(choice) is wanted


def test_registry_keeps_the_order_of_registration() -> None:
    """Types are listed in the order given, and found by name."""
    registry = PackageTypeRegistry([PackageType("b"), PackageType("a")])
    assert registry.names == ("b", "a")
    assert [package_type.name for package_type in registry] == ["b", "a"]
    assert registry["a"] == PackageType("a")


def test_registry_rejects_a_duplicate_name() -> None:
    """Two types with one name are an error."""
    with pytest.raises(ValueError, match="'a' is registered twice"):
        PackageTypeRegistry([PackageType("a"), PackageType("a", declinable=False)])


def test_registry_must_not_be_empty() -> None:
    """A registry without types is an error."""
    with pytest.raises(ValueError, match="at least one"):
        PackageTypeRegistry([])
