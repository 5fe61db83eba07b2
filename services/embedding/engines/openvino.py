"""The default engine: OpenVINO on the CPU, from a model's safetensors (BERT family) or the graph that it brings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.embedding.engines import Model, TextKind, Tokens
from services.embedding.errors import DependencyMissing, ModelUnusable
from services.embedding.settings import EmbeddingSettings

try:
    import openvino as ov

    from services.embedding.engines import bert_graph
    from services.embedding.engines.folder import ModelFolder, Tokenizer, open_folder
except ImportError as error:
    raise DependencyMissing("openvino", "embedding") from error


class OpenVinoEmbedder:
    """One compiled graph and one request, used by one thread at a time."""

    def __init__(self, settings: EmbeddingSettings) -> None:
        folder = open_folder(settings.model)
        folder.only_pooled()
        core = ov.Core()
        precision = _precision(core, settings)
        graph, weights = _graph(core, folder)
        options = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        if settings.threads:
            options["INFERENCE_NUM_THREADS"] = settings.threads
        compiled = core.compile_model(graph, "CPU", options)
        self._request = compiled.create_infer_request()
        self._wants_types = any("token_type_ids" in port.get_names() for port in compiled.inputs)
        self._tokenizer = Tokenizer(folder)
        self.model = Model(
            fingerprint=folder.fingerprint(precision, *weights),
            name=folder.name,
            dimensions=compiled.output(0).get_partial_shape()[-1].get_length(),
            max_tokens=folder.max_tokens,
            engine="openvino",
        )

    def tokenize(self, texts: Sequence[str], kind: TextKind) -> list[Tokens]:
        return self._tokenizer(texts, kind)

    def infer(self, batch: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
        longest = max(len(ids) for ids in batch)
        ids = np.zeros((len(batch), longest), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self._wants_types:
            inputs["token_type_ids"] = np.zeros_like(ids)
        self._request.infer(inputs, share_inputs=True)
        return np.array(self._request.get_output_tensor(0).data, dtype=np.float32)

    def close(self) -> None:
        del self._request


def _precision(core: ov.Core, settings: EmbeddingSettings) -> str:
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if settings.precision == "auto":
        return "bf16" if has_bf16 else "f32"
    if settings.precision == "bf16" and not has_bf16:
        raise ModelUnusable("precision bf16: this processor has no bfloat16; use auto or f32")
    return settings.precision


def _graph(core: ov.Core, folder: ModelFolder) -> tuple[ov.Model, list[Path]]:
    """The graph, from hidden states to pooled, and the files it was made from."""
    for name, data in (("openvino_model.xml", "openvino_model.bin"), ("model.onnx", "")):
        path = folder.path / name
        if path.is_file():
            files = [path, folder.path / data] if data else [path]
            return _pooled(core.read_model(path), folder.pooling), files
    weights = folder.path / "model.safetensors"
    if folder.config.get("model_type") != "bert" or folder.config.get("hidden_act") != "gelu":
        raise ModelUnusable(
            f"model {folder.name!r} is of type {folder.config.get('model_type')!r}: this engine builds BERT's graph "
            "or loads an openvino_model.xml or model.onnx from the folder; else use the sentence_transformers engine"
        )
    if not weights.is_file():
        raise ModelUnusable(f"model {folder.name!r}: there is no model.safetensors in its folder")
    return bert_graph.build(folder.config, weights, folder.pooling), [weights]


def _pooled(graph: ov.Model, pooling: str) -> ov.Model:
    """The graph with its last hidden state pooled; one that pools by itself stays as it is."""
    first = graph.output(0)
    if len(first.get_partial_shape()) == 2:
        return graph
    mask = next(port for port in graph.inputs if "attention_mask" in port.get_names())
    hidden = first.get_node().input_value(0)
    return ov.Model([bert_graph.pool(hidden, mask, pooling)], graph.get_parameters(), "pooled")
