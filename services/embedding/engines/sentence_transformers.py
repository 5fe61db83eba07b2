"""The reference engine: sentence-transformers on torch. It runs any of its models, and the others are held to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.embedding.engines import Model, TextKind, Tokens
from services.embedding.errors import DependencyMissing
from services.embedding.settings import EmbeddingSettings

try:
    import sentence_transformers
    import torch

    from services.embedding.engines.folder import open_folder
except ImportError as error:
    raise DependencyMissing("sentence_transformers", "embedding,torch") from error


class SentenceTransformersEmbedder:
    """A SentenceTransformer with its own tokenizer, in float32 unless bf16 is asked for by name."""

    def __init__(self, settings: EmbeddingSettings) -> None:
        folder = open_folder(settings.model)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self._transformer = sentence_transformers.SentenceTransformer(str(folder.path), device=settings.device)
        self._transformer.eval()
        self._tokenizer = self._transformer.tokenizer
        self._prompts = folder.prompts
        self._device = settings.device
        self._bf16 = settings.precision == "bf16"
        weights = sorted(folder.path.glob("model*.safetensors")) or sorted(folder.path.glob("pytorch_model*.bin"))
        self.model = Model(
            fingerprint=folder.fingerprint("bf16" if self._bf16 else "f32", *weights),
            name=folder.name,
            dimensions=int(self._transformer.get_embedding_dimension() or 0),
            max_tokens=int(self._transformer.max_seq_length or folder.max_tokens),
            engine="sentence_transformers",
        )

    def tokenize(self, texts: Sequence[str], kind: TextKind) -> list[Tokens]:
        prompt = self._prompts.get(kind.value, "")
        encoded = self._tokenizer(
            [prompt + text for text in texts],
            truncation=True,
            max_length=self.model.max_tokens,
            return_overflowing_tokens=True,
        )
        rows: list[list[list[int]]] = [[] for _ in texts]
        for ids, text in zip(encoded["input_ids"], encoded["overflow_to_sample_mapping"], strict=True):
            rows[text].append(ids)
        return [Tokens(np.array(parts[0], dtype=np.int64), truncated=len(parts) > 1) for parts in rows]

    def infer(self, batch: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
        features = self._tokenizer.pad({"input_ids": [ids.tolist() for ids in batch]}, return_tensors="pt")
        on_device = {name: tensor.to(self._device) for name, tensor in features.items()}
        device_type = torch.device(self._device).type
        with torch.inference_mode(), torch.autocast(device_type, torch.bfloat16, enabled=self._bf16):
            rows = self._transformer(on_device)["sentence_embedding"]
        return np.array(rows.float().cpu().numpy(), dtype=np.float32)

    def close(self) -> None:
        del self._transformer
