"""Bad requests name the field and the limit."""

from typing import Any

import pytest

from services.generation.requests import Request, Sampling, require_messages, require_window
from serving.errors import InvalidArgument


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"max_tokens": 0}, "sampling.max_tokens"),
        ({"max_tokens": 4097}, "sampling.max_tokens"),
        ({"temperature": -0.1}, "sampling.temperature"),
        ({"temperature": 2.1}, "sampling.temperature"),
        ({"temperature": float("nan")}, "sampling.temperature"),
        ({"top_p": 0.0}, "sampling.top_p"),
        ({"top_p": 1.1}, "sampling.top_p"),
        ({"stop": ("x",) * 9}, "sampling.stop"),
        ({"stop": ("",)}, "sampling.stop"),
    ],
)
def test_sampling_out_of_bounds_names_its_field(values: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        Sampling(**values)
    assert raised.value.field == field


def test_a_request_has_a_tenant() -> None:
    with pytest.raises(InvalidArgument) as raised:
        Request(tenant="", messages=())
    assert raised.value.field == "scope.tenant"


def test_a_request_to_a_model_has_messages() -> None:
    with pytest.raises(InvalidArgument) as raised:
        require_messages(Request(tenant="t", messages=()))
    assert raised.value.field == "messages"


def test_the_window_holds_prompt_and_output() -> None:
    request = Request(tenant="t", messages=(), sampling=Sampling(max_tokens=100))
    require_window(request, 412, 512)
    with pytest.raises(InvalidArgument, match="412") as raised:
        require_window(request, 413, 512)
    assert raised.value.field == "messages"
