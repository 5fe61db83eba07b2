"""The two clients are one client."""

import inspect
from typing import Any

import headwater
import pytest
from headwater import AsyncClient, AsyncStream, Client, Stream


def surface(cls: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(cls).items() if not name.startswith("_") or name == "__init__"}


def signature(member: Any) -> Any:
    if isinstance(member, property):
        return "property"
    return [(p.name, p.kind, p.default) for p in inspect.signature(member).parameters.values()]


@pytest.mark.parametrize(("blocking", "asynchronous"), [(Client, AsyncClient), (Stream, AsyncStream)])
def test_both_have_the_same_names_and_signatures(blocking: Any, asynchronous: Any) -> None:
    ours, theirs = surface(blocking), surface(asynchronous)
    assert ours.keys() == theirs.keys()
    for name, member in ours.items():
        assert signature(member) == signature(theirs[name]), name


def test_every_public_method_says_what_it_does() -> None:
    for cls in (Client, AsyncClient):
        assert all(member.__doc__ for name, member in surface(cls).items() if name != "__init__")


def test_everything_named_can_be_imported() -> None:
    for name in headwater.__all__:
        assert getattr(headwater, name) is not None
    with pytest.raises(AttributeError):
        headwater.absent  # noqa: B018
    assert set(dir(headwater)) == set(headwater.__all__)
