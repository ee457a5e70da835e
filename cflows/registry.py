"""A table of named things that anyone can add to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(dict[str, T], Generic[T]):
    """Things by name; an unknown name is an error that lists those that there are.

    Parameters
    ----------
    what : str
        What they are, for that error: "task", "process".
    reserved : tuple of str
        Names that nothing may have.
    """

    def __init__(self, what: str, reserved: tuple[str, ...] = ()):
        super().__init__()
        self.what, self.reserved = what, reserved

    def __missing__(self, name: object) -> T:
        raise ValueError(f"there is no {self.what} {name!r}; there are {', '.join(self)}")

    def register(self, name: str) -> Callable[[T], T]:
        """Add what is decorated under a name.

        Parameters
        ----------
        name : str

        Returns
        -------
        callable
            A decorator.

        Raises
        ------
        ValueError
            If something else has that name, or it has a slash or is reserved.
        """

        def add(thing: T) -> T:
            if name in self and self[name] is not thing:
                raise ValueError(f"there is a {self.what} {name!r} already; choose another name")
            if not name or "/" in name or name in self.reserved:
                raise ValueError(f"a {self.what} can't be called {name!r}; choose another name, without a slash")
            self[name] = thing
            return thing

        return add

    def name_of(self, thing: T) -> str:
        """The name of something.

        Parameters
        ----------
        thing
            What was registered.

        Returns
        -------
        str

        Raises
        ------
        ValueError
            If it was not registered.
        """
        for name, other in self.items():
            if other is thing:
                return name
        raise ValueError(f"the {self.what} {getattr(thing, '__name__', thing)} is not registered; give it a name")
