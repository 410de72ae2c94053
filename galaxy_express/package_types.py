"""The registered package types. To add a type, edit ``PACKAGE_TYPES`` below and nothing else."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True)
class PackageType:
    """A type of package, and how recipients may accept or decline it.

    :param name: lower-case letters, digits and underscores; it is the value of
        ``package_type`` in a send, the stem of the field ``<name>_preference``
        in a preference update, and a key of ``by_type`` in the statistics.
    :param wanted_by_default: whether it is wanted by a recipient who never made a choice.
    :param declinable: whether a recipient may decline it at all.
    :param required_in_updates: whether every preference update must name it.
        Leave it false for a type that existing clients don't know yet: an update
        that omits the type leaves it unchanged.
    :raises ValueError: if the name is malformed, or if a type that can't be declined is
        not wanted by default.
    """

    name: str
    wanted_by_default: bool = True
    declinable: bool = True
    required_in_updates: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"package type {self.name!r}: the name must match {_NAME.pattern}")
        if not (self.declinable or self.wanted_by_default):
            raise ValueError(
                f"package type {self.name!r}: a type that can't be declined must be wanted"
            )

    @property
    def preference_field(self) -> str:
        """The name of this type's field in preferences, ``<name>_preference``."""
        return f"{self.name}_preference"

    def is_wanted(self, choice: bool | None) -> bool:
        """Return whether a recipient wants this type.

        :param choice: the recipient's current choice; ``None`` if there is none.
        """
        if not self.declinable or choice is None:
            return self.wanted_by_default
        return choice


class PackageTypeRegistry:
    """The package types of one service, by name, in the order given.

    :raises ValueError: if two types share a name, or if there are no types.
    """

    def __init__(self, types: Iterable[PackageType]) -> None:
        self._by_name: dict[str, PackageType] = {}
        for package_type in types:
            if package_type.name in self._by_name:
                raise ValueError(f"package type {package_type.name!r} is registered twice")
            self._by_name[package_type.name] = package_type
        if not self._by_name:
            raise ValueError("a registry needs at least one package type")

    def __getitem__(self, name: str) -> PackageType:
        return self._by_name[name]

    def __iter__(self) -> Iterator[PackageType]:
        return iter(self._by_name.values())

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all types, in the order given."""
        return tuple(self._by_name)


PACKAGE_TYPES = PackageTypeRegistry(
    [
        PackageType("personal", required_in_updates=True),
        PackageType("marketing", required_in_updates=True),
    ]
)
