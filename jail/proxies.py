"""Proxies: what the judge holds in place of objects of a program's own classes.

Runs in the judge. Imports the standard library alone.
"""

from __future__ import annotations

PASSED_NAMES = ("__name__", "__doc__", "__qualname__", "__dict__", "__wrapped__")


class Proxy:
    """An object of the candidate.

    A proxy equals no plain data and does no arithmetic with plain data. Otherwise an object that
    equals everything would pass, as would one whose difference from everything is 0. What else a
    test may see of the object is a look; `Session.look` says what looks are worth.
    """

    __slots__ = ("_Proxy__handle", "_Proxy__kind", "_Proxy__session")

    def __init__(self, session, handle: int, kind: str):
        object.__setattr__(self, "_Proxy__session", session)
        object.__setattr__(self, "_Proxy__handle", handle)
        object.__setattr__(self, "_Proxy__kind", kind)

    def __getattr__(self, name):
        if name.startswith("__") and name not in PASSED_NAMES:
            raise AttributeError(name)
        return self.__session.look("getattr", self, name)

    def __setattr__(self, name, value):
        self.__session.ask("setattr", self, name, value)

    def __delattr__(self, name):
        self.__session.ask("delattr", self, name)

    def __eq__(self, other):
        return self.__compare("eq", other, False)

    def __ne__(self, other):
        return self.__compare("ne", other, True)

    def __compare(self, operation, other, otherwise):
        if not isinstance(other, Proxy):
            return otherwise
        self.__session.weak += 1
        return self.__session.ask(operation, self, other)

    def __hash__(self):
        return self.__session.ask("hash", self)

    def __bool__(self):  # says no more than a function that returns True
        return self.__session.look("bool", self)

    def __iter__(self):
        iterator = self.__session.look("iter", self)
        return iterator if isinstance(iterator, Proxy) else iter(iterator)

    def __next__(self):
        return self.__session.ask("next", self)

    def __contains__(self, item):
        return any(item is element or item == element for element in self)

    def __instancecheck__(self, instance):
        if not isinstance(instance, Proxy):
            return False
        self.__session.weak += 1
        return self.__session.ask("isinstance", instance, self)

    def __subclasscheck__(self, other):
        self.__session.weak += 1
        return isinstance(other, Proxy) and self.__session.ask("issubclass", other, self)

    def __repr__(self):
        return self.__session.look("repr", self)

    def __str__(self):
        return self.__session.look("str", self)


class CallableProxy(Proxy):
    """A function or class of the candidate."""

    __slots__ = ()

    def __call__(self, *args, **kwargs):
        return self._Proxy__session.ask("call", self, *args, **kwargs)


PROXY_HANDLE = Proxy._Proxy__handle.__get__
PROXY_KIND = Proxy._Proxy__kind.__get__
LOOKS = "len getitem int float complex index round reversed neg pos abs invert dir format"
BINARY = "add sub mul truediv floordiv mod pow matmul lshift rshift xor lt le gt ge"


def add_operators() -> None:
    """Give Proxy the operators: unary ones, and those between two proxies."""

    def look(operation):
        return lambda self, *args: self._Proxy__session.look(operation, self, *args)

    def act(operation):
        return lambda self, *args: self._Proxy__session.ask(operation, self, *args)

    def binary(operation):
        def method(self, other):
            if not isinstance(other, Proxy):
                return NotImplemented
            self._Proxy__session.weak += 1
            return self._Proxy__session.ask(operation, self, other)

        return method

    for name in LOOKS.split():
        setattr(Proxy, f"__{name}__", look(name))
    for name in ("setitem", "delitem", "enter"):
        setattr(Proxy, f"__{name}__", act(name))
    for name in BINARY.split():
        setattr(Proxy, f"__{name}__", binary(name))
    Proxy.__and__, Proxy.__or__ = binary("and_"), binary("or_")
    Proxy.__exit__ = lambda self, *error: self._Proxy__session.ask("exit", self)


add_operators()
