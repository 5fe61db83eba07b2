"""The graph of a BERT-family encoder, built in OpenVINO straight from its safetensors: no torch, no conversion.

Devlin et al., 2018 (arXiv 1810.04805), with the pooling of sentence-transformers after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset15 as ops
from safetensors.numpy import load_file

from services.embedding.errors import ModelUnusable

Node = Any  # OpenVINO's nodes and outputs are interchangeable here and untyped

# Far below any score; not -inf, of which bfloat16 makes NaN in a row that is all padding.
_MASKED = np.float32(-1e9)


def build(config: Mapping[str, Any], weights: Path, pooling: str) -> ov.Model:
    """input_ids and attention_mask, both [texts, tokens] of int64, to one row a text, [texts, hidden] of float32."""
    tensors = load_file(weights)
    prefix = "bert." if "bert.embeddings.word_embeddings.weight" in tensors else ""
    builder = _Bert(config, {name.removeprefix(prefix): tensor for name, tensor in tensors.items()})
    ids, mask = parameters()
    hidden = builder.encode(ids, mask)
    return ov.Model([pool(hidden, mask, pooling)], [ids, mask], "bert")


def parameters() -> tuple[Node, Node]:
    """The graph's two inputs."""
    ids = ops.parameter([-1, -1], np.int64, "input_ids")
    mask = ops.parameter([-1, -1], np.int64, "attention_mask")
    for node, name in ((ids, "input_ids"), (mask, "attention_mask")):
        node.output(0).tensor.set_names({name})
    return ids, mask


def pool(hidden: Node, mask: Node, pooling: str) -> Node:
    """[texts, tokens, hidden] to [texts, hidden]: the first token's row, or the mean of those that are not padding."""
    if pooling == "cls":
        return ops.gather(hidden, np.int64(0), np.int64(1))
    weights = ops.unsqueeze(ops.convert(mask, np.float32), np.int64(2))
    total = ops.reduce_sum(ops.multiply(hidden, weights), np.int64(1), keep_dims=False)
    return ops.divide(total, ops.reduce_sum(weights, np.int64(1), keep_dims=False))


class _Bert:
    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
        self._tensors = tensors
        self._layers = int(config["num_hidden_layers"])
        self._heads = int(config["num_attention_heads"])
        self._head_size = int(config["hidden_size"]) // self._heads
        self._epsilon = float(config["layer_norm_eps"])

    def encode(self, ids: Node, mask: Node) -> Node:
        hidden = self._embed(ids)
        bias = ops.multiply(ops.subtract(np.float32(1), ops.convert(mask, np.float32)), _MASKED)
        bias = ops.unsqueeze(bias, np.array([1, 2]))
        for layer in range(self._layers):
            name = f"encoder.layer.{layer}."
            attended = self._linear(
                self._attend(hidden, bias, name + "attention.self."), name + "attention.output.dense"
            )
            hidden = self._normalize(ops.add(hidden, attended), name + "attention.output.LayerNorm")
            inner = ops.gelu(self._linear(hidden, name + "intermediate.dense"), "erf")
            hidden = self._normalize(
                ops.add(hidden, self._linear(inner, name + "output.dense")), name + "output.LayerNorm"
            )
        return hidden

    def _embed(self, ids: Node) -> Node:
        words = ops.gather(self._weight("embeddings.word_embeddings.weight"), ids, np.int64(0))
        length = ops.gather(ops.shape_of(ids), np.int64(1), np.int64(0))
        places = ops.range(np.int64(0), length, np.int64(1), "i64")
        positions = ops.gather(self._weight("embeddings.position_embeddings.weight"), places, np.int64(0))
        kind = ops.gather(self._weight("embeddings.token_type_embeddings.weight"), np.int64(0), np.int64(0))
        return self._normalize(ops.add(ops.add(words, positions), kind), "embeddings.LayerNorm")

    def _attend(self, hidden: Node, bias: Node, name: str) -> Node:
        def heads(part: str) -> Node:
            split = np.array([0, 0, self._heads, self._head_size])
            return ops.transpose(ops.reshape(self._linear(hidden, name + part), split, True), np.array([0, 2, 1, 3]))

        attended = ops.scaled_dot_product_attention(heads("query"), heads("key"), heads("value"), bias)
        joined = np.array([0, 0, self._heads * self._head_size])
        return ops.reshape(ops.transpose(attended, np.array([0, 2, 1, 3])), joined, True)

    def _linear(self, hidden: Node, name: str) -> Node:
        product = ops.matmul(hidden, self._weight(name + ".weight"), False, True)
        return ops.add(product, self._weight(name + ".bias"))

    def _normalize(self, hidden: Node, name: str) -> Node:
        normal = ops.mvn(hidden, np.array([-1]), True, self._epsilon, "inside_sqrt")
        return ops.add(ops.multiply(normal, self._weight(name + ".weight")), self._weight(name + ".bias"))

    def _weight(self, name: str) -> Node:
        if name not in self._tensors:
            raise ModelUnusable(f"the model's weights have no {name!r}; use the sentence_transformers engine")
        return ops.constant(np.asarray(self._tensors[name], dtype=np.float32))
