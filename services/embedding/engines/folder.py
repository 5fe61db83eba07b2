"""A model's folder, as sentence-transformers lays it out: what it says of itself, its tokenizer, its weights' hash."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from services.embedding.engines import TextKind, Tokens
from services.embedding.errors import ModelUnusable
from serving.models import resolve_model

_KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """What the folder says."""

    path: Path
    name: str
    revision: str
    config: Mapping[str, Any]
    """The transformer's config.json."""
    max_tokens: int
    pooling: str
    """"mean", "cls", or another one that sentence-transformers knows."""
    prompts: Mapping[str, str]
    """What goes before a text, by its kind."""
    modules: Sequence[str]
    """What follows on each other, by class name."""

    def fingerprint(self, precision: str, *weights: Path) -> str:
        """Name, revision, precision, pooling and SHA-256 of the weights in one string."""
        digest = hashlib.sha256()
        for path in weights:
            with path.open("rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
        return f"{self.name}@{self.revision}/{precision}/{self.pooling}/sha256:{digest.hexdigest()}"

    def only_pooled(self) -> None:
        """Raise ModelUnusable unless the model is a transformer, its mean or first token, and nothing else."""
        extra = [module for module in self.modules if module not in _KNOWN_MODULES]
        if extra or self.pooling not in ("mean", "cls"):
            what = f"the module {extra[0]}" if extra else f"{self.pooling} pooling"
            raise ModelUnusable(
                f"model {self.name!r} has {what}, which this engine does not know; use the sentence_transformers engine"
            )


def open_folder(reference: str) -> ModelFolder:
    """Find the model and read what it says of itself. May block on the network."""
    path = resolve_model(reference)
    if not (path / "config.json").is_file():
        raise ModelUnusable(f"model {reference!r}: there is no config.json in its folder")
    config = _json(path / "config.json")
    modules = [str(module["type"]).rpartition(".")[2] for module in _json(path / "modules.json", [])]
    pooling = next(
        (entry["path"] for entry in _json(path / "modules.json", []) if entry["type"].endswith("Pooling")), ""
    )
    name, revision = _identity(reference, path)
    window = _json(path / "sentence_bert_config.json", {}).get("max_seq_length")
    return ModelFolder(
        path=path,
        name=name,
        revision=revision,
        config=config,
        max_tokens=int(window or config.get("max_position_embeddings") or 512),
        pooling=_pooling(_json(path / pooling / "config.json", {})) if pooling else "mean",
        prompts=_json(path / "config_sentence_transformers.json", {}).get("prompts") or {},
        modules=modules,
    )


class Tokenizer:
    """The folder's tokenizer.json, cut to the model's window, not padded."""

    def __init__(self, folder: ModelFolder) -> None:
        path = folder.path / "tokenizer.json"
        if not path.is_file():
            raise ModelUnusable(f"model {folder.name!r}: there is no tokenizer.json in its folder")
        self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        self._tokenizer.enable_truncation(folder.max_tokens)
        self._tokenizer.no_padding()
        self._prompts = folder.prompts

    def __call__(self, texts: Sequence[str], kind: TextKind) -> list[Tokens]:
        prompt = self._prompts.get(kind.value, "")
        encodings = self._tokenizer.encode_batch_fast([prompt + text for text in texts])
        return [Tokens(np.array(encoding.ids, dtype=np.int64), bool(encoding.overflowing)) for encoding in encodings]


def _identity(reference: str, path: Path) -> tuple[str, str]:
    if reference.startswith("package:"):
        package = reference.removeprefix("package:").partition("/")[0]
        return package, importlib.metadata.version(package)
    if reference.startswith("hf:"):
        name, _, revision = reference.removeprefix("hf:").partition("@")
        return name, revision or path.name  # a snapshot's folder is named after its commit
    return path.resolve().name, "local"


def _pooling(config: Mapping[str, Any]) -> str:
    if mode := config.get("pooling_mode"):
        return str(mode)
    chosen = [
        key.removeprefix("pooling_mode_") for key, value in config.items() if key.startswith("pooling_mode_") and value
    ]
    names = {"mean_tokens": "mean", "cls_token": "cls"}
    return "+".join(names.get(mode, mode) for mode in chosen) or "mean"


def _json(path: Path, default: Any = None) -> Any:
    if default is not None and not path.is_file():
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelUnusable(f"{path.name} of the model is not JSON") from error
