"""What a model's folder says of the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services.embedding.engines import open_engine
from services.embedding.engines.folder import open_folder
from services.embedding.errors import ModelUnusable
from services.embedding.settings import EmbeddingSettings

BERT = {"model_type": "bert", "hidden_act": "gelu", "max_position_embeddings": 512}


def _folder(path: Path, config: dict[str, Any], pooling: dict[str, Any] | None = None, *modules: str) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    entries = [{"type": "st.models.Transformer", "path": ""}]
    if pooling is not None:
        (path / "1_Pooling").mkdir()
        (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        entries.append({"type": "st.models.Pooling", "path": "1_Pooling"})
    entries += [{"type": f"st.models.{module}", "path": module} for module in modules]
    (path / "modules.json").write_text(json.dumps(entries))
    return path


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode_max_tokens": True}, "max_tokens"),
        ({}, "mean"),
    ],
)
def test_the_pooling_is_read_from_old_and_new_folders(tmp_path: Path, config: dict[str, Any], pooling: str) -> None:
    assert open_folder(str(_folder(tmp_path / "model", BERT, config))).pooling == pooling


def test_the_window_is_the_sentence_models_else_the_transformers(tmp_path: Path) -> None:
    path = _folder(tmp_path / "model", BERT)
    assert open_folder(str(path)).max_tokens == 512
    (path / "sentence_bert_config.json").write_text('{"max_seq_length": 128}')
    assert open_folder(str(path)).max_tokens == 128


def test_the_fingerprint_changes_with_the_weights_and_the_precision(tmp_path: Path) -> None:
    folder = open_folder(str(_folder(tmp_path / "model", BERT)))
    weights = tmp_path / "weights"
    weights.write_bytes(b"one")
    one = folder.fingerprint("f32", weights)
    assert one.startswith("model@local/f32/mean/sha256:")
    assert folder.fingerprint("bf16", weights) != one
    weights.write_bytes(b"two")
    assert folder.fingerprint("f32", weights) != one


@pytest.mark.parametrize(
    ("config", "pooling", "modules", "said"),
    [
        (BERT, {"pooling_mode_max_tokens": True}, (), "max_tokens pooling"),
        (BERT, None, ("Dense",), "Dense"),
        ({**BERT, "model_type": "t5"}, None, (), "t5"),
        (BERT, None, (), "safetensors"),
    ],
)
def test_a_model_that_openvino_cannot_run_says_what_to_use(
    tmp_path: Path, config: dict[str, Any], pooling: dict[str, Any] | None, modules: tuple[str, ...], said: str
) -> None:
    path = _folder(tmp_path / "model", config, pooling, *modules)
    with pytest.raises(ModelUnusable, match=said):
        open_engine(EmbeddingSettings(model=str(path)))


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match=r"config\.json"):
        open_engine(EmbeddingSettings(model=str(tmp_path)))
