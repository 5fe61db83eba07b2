"""References to models, and what is said when one is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.errors import FailedPrecondition
from serving.models import resolve_model


def test_a_local_path_is_itself(tmp_path: Path) -> None:
    assert resolve_model(str(tmp_path)) == tmp_path


def test_a_path_inside_a_package_is_found() -> None:
    assert resolve_model("package:serving/limits.py").name == "limits.py"


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("/nowhere/at/all", "no such file"),
        ("package:not_installed_at_all/model", "not installed"),
        ("package:serving/not-inside", "not-inside"),
    ],
)
def test_a_missing_model_says_what_is_missing(reference: str, said: str) -> None:
    with pytest.raises(FailedPrecondition, match=said) as caught:
        resolve_model(reference)
    assert caught.value.reason == "MODEL_MISSING"


def test_a_hub_that_cannot_be_reached_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub", reason="comes with the embedding extra")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FailedPrecondition, match="folder"):
        resolve_model("hf:headwater/no-such-model@main")
