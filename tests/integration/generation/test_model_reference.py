"""The prepared model against the one that was shipped: the same next words, by a forward pass of its own in numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.quants import dequantize

from services.generation.gguf_files import rewrite_once
from services.generation.settings import OpenVinoSettings
from serving.models import resolve_model

pytestmark = pytest.mark.models

TEXT = (
    "The public library of the town opens at nine in the morning on weekdays and at ten on Saturdays. "
    "Readers may borrow up to eight books for three weeks, and renew them twice by telephone or at the desk."
)
ENDS = (5, 10, 15, 20, 25, 30, 35, 40)

Array = np.ndarray[Any, np.dtype[Any]]


def _norm(x: Array, weight: Array) -> Array:
    scaled: Array = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weight
    return scaled


def _softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(-1, keepdims=True))
    shares: Array = powers / powers.sum(-1, keepdims=True)
    return shares


def _rotate(x: Array, base: float) -> Array:
    """Rotary positions over neighbouring pairs, as GGUF stores Llama's heads. x: heads, tokens, size."""
    _, tokens, size = x.shape
    angles = np.arange(tokens)[:, None] * base ** (-np.arange(0, size, 2) / size)
    even, odd = x[..., ::2], x[..., 1::2]
    turned = [even * np.cos(angles) - odd * np.sin(angles), even * np.sin(angles) + odd * np.cos(angles)]
    return np.stack(turned, -1).reshape(x.shape)


def _next_log_probabilities(path: Path, tokens: list[int]) -> Array:
    """Log-probabilities after each token (tokens, vocabulary), from the file's own weights in float32."""
    reader = GGUFReader(path)
    weights = {t.name: dequantize(t.data, t.tensor_type) for t in reader.tensors}

    def fact(name: str) -> float:
        return float(reader.fields[f"llama.{name}"].contents())

    heads, shared = int(fact("attention.head_count")), int(fact("attention.head_count_kv"))
    base = fact("rope.freq_base")
    x = weights["token_embd.weight"][tokens]
    future = np.triu(np.full((len(tokens), len(tokens)), -np.inf), 1)
    for layer in range(int(fact("block_count"))):
        of = {
            name.removeprefix(f"blk.{layer}.").removesuffix(".weight"): weight
            for name, weight in weights.items()
            if name.startswith(f"blk.{layer}.")
        }
        h = _norm(x, of["attn_norm"])

        def split(projected: Array, count: int) -> Array:
            return projected.reshape(len(tokens), count, -1).transpose(1, 0, 2)

        query = _rotate(split(h @ of["attn_q"].T, heads), base)
        key = np.repeat(_rotate(split(h @ of["attn_k"].T, shared), base), heads // shared, 0)
        value = np.repeat(split(h @ of["attn_v"].T, shared), heads // shared, 0)
        seen = _softmax(query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1]) + future) @ value
        x = x + seen.transpose(1, 0, 2).reshape(len(tokens), -1) @ of["attn_output"].T
        h = _norm(x, of["ffn_norm"])
        gate = h @ of["ffn_gate"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ of["ffn_up"].T)) @ of["ffn_down"].T
    logits = _norm(x, weights["output_norm.weight"]) @ weights["token_embd.weight"].T
    return np.log(_softmax(logits))


def _loaded(path: Path) -> tuple[list[int], list[tuple[int, float]]]:
    """The text's tokens, and OpenVINO's next token with its log-probability after each of ENDS."""
    import openvino
    import openvino_genai

    scheduling = openvino_genai.SchedulerConfig()
    scheduling.num_kv_blocks = 64
    properties = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    pipeline = openvino_genai.ContinuousBatchingPipeline(str(path), scheduling, "CPU", properties)
    tokens = pipeline.get_tokenizer().encode(TEXT, add_special_tokens=False).input_ids.data[0].tolist()
    config = openvino_genai.GenerationConfig(max_new_tokens=1, logprobs=1, ignore_eos=True, apply_chat_template=False)
    prompts = [openvino.Tensor(np.array([tokens[:end]], dtype=np.int64)) for end in ENDS]
    handles = [pipeline.add_request(number, prompt, config) for number, prompt in enumerate(prompts)]
    while pipeline.has_non_finished_requests():
        pipeline.step()
    outputs = [output for handle in handles for output in handle.read_all()]
    return tokens, [(output.generated_ids[0], output.generated_log_probs[0]) for output in outputs]


def _deviation(loaded: Path, shipped: Path) -> tuple[int, float]:
    """How many next tokens agree, and the largest difference of their log-probabilities."""
    tokens, ours = _loaded(loaded)
    theirs = _next_log_probabilities(shipped, tokens[: max(ENDS)])
    rows = [theirs[end - 1] for end in ENDS]
    agreeing = sum(int(row.argmax()) == token for row, (token, _) in zip(rows, ours, strict=True))
    differences = [abs(row[token] - probability) for row, (token, probability) in zip(rows, ours, strict=True)]
    return agreeing, float(max(differences))


def test_the_prepared_model_says_what_the_shipped_one_would(tmp_path: Path) -> None:
    shipped = resolve_model(OpenVinoSettings().model)
    prepared = rewrite_once(shipped, tmp_path, lambda share: None)
    agreeing, difference = _deviation(prepared, shipped)
    assert agreeing == len(ENDS)
    assert difference < 0.2
    # What preparing is for; once OpenVINO loads this file rightly, it is not needed any more.
    _, unprepared = _deviation(shipped, shipped)
    assert unprepared > 5 * difference
