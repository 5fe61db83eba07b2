"""What every engine promises to the batcher."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino
import pytest

from services.embedding.engines import Embedder, TextKind, bert_graph, open_engine
from services.embedding.engines.folder import open_folder
from services.embedding.settings import EmbeddingSettings
from serving.models import resolve_model

TEXTS = [
    "word",
    "!!!",
    "naïve café, Ærøskøbing — 東京は日本の首都です 🙂 Привет, мир",
    "The river rose two metres overnight, and the lower road was closed until the following Tuesday.",
    "line one\nline two\ttabbed",
    "0.5 % of 1,234.56 kg",
    "a\u0000b\u200bc",
    "supercalifragilisticexpialidocious" * 20,
    " ".join(f"Sentence {number} speaks of the harbour, its ships and their cargo." for number in range(60)),
    "x " * 4000,
    *(" ".join(["flood", "harbour", "leave", "invoice"][: 1 + number % 4] * (1 + number)) for number in range(20)),
]


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _embed(engine: Embedder, texts: list[str]) -> np.ndarray:
    tokens = engine.tokenize(texts, TextKind.DOCUMENT)
    return _unit(engine.infer([cut.ids for cut in tokens]))


def test_a_row_for_each_text_finite_and_of_the_models_width(engine: Embedder) -> None:
    rows = _embed(engine, TEXTS)
    assert rows.shape == (len(TEXTS), engine.model.dimensions)
    assert rows.dtype == np.float32
    assert np.isfinite(rows).all()


def test_tokens_fit_the_window_and_say_when_they_were_cut(engine: Embedder) -> None:
    for text, cut in zip(TEXTS, engine.tokenize(TEXTS, TextKind.DOCUMENT), strict=True):
        assert 1 <= len(cut.ids) <= engine.model.max_tokens
        if cut.truncated:
            assert len(cut.ids) == engine.model.max_tokens
        assert cut.truncated == (len(engine.tokenize([text + " more words"], TextKind.DOCUMENT)[0].ids) == len(cut.ids))


def test_a_text_has_the_same_direction_alone_and_in_company(engine: Embedder) -> None:
    together = _embed(engine, TEXTS[:10])
    alone = np.concatenate([_embed(engine, [text]) for text in TEXTS[:10]])
    assert (together * alone).sum(axis=1).min() > 0.9995


def test_texts_that_share_their_subject_are_nearer_than_texts_that_do_not(engine: Embedder) -> None:
    flood, near, far = _embed(engine, ["the river flood", "a flood of the river", "annual leave of employees"])
    assert flood @ near > flood @ far


def test_results_are_not_overwritten_by_the_next_batch(engine: Embedder) -> None:
    ids = [cut.ids for cut in engine.tokenize(["first", "second"], TextKind.DOCUMENT)]
    first = engine.infer(ids[:1])
    kept = first.copy()
    engine.infer(ids[1:])
    np.testing.assert_array_equal(first, kept)


def test_tokenizing_beside_inference_changes_nothing(engine: Embedder) -> None:
    expected = [cut.ids.tolist() for cut in engine.tokenize(TEXTS, TextKind.DOCUMENT)]
    with ThreadPoolExecutor(3) as threads:
        running = threads.submit(_embed, engine, TEXTS)
        cuts = [threads.submit(engine.tokenize, TEXTS, TextKind.DOCUMENT) for _ in range(8)]
        for cut in cuts:
            assert [tokens.ids.tolist() for tokens in cut.result()] == expected
        assert np.isfinite(running.result()).all()


def test_the_fingerprint_names_all_that_makes_vectors_comparable(engine: Embedder) -> None:
    model = engine.model
    assert model.fingerprint.startswith(model.name + "@")
    assert model.fingerprint.count("/") == 3


@pytest.fixture(scope="session")
def reference() -> np.ndarray:
    """sentence-transformers in float32, called as its own documentation says, not through our engine."""
    sentence_transformers = pytest.importorskip(
        "sentence_transformers", reason="`make setup-torch` installs the reference engine"
    )
    model = sentence_transformers.SentenceTransformer(str(resolve_model(EmbeddingSettings().model)), device="cpu")
    return np.asarray(model.encode(TEXTS, normalize_embeddings=True))


@pytest.mark.torch
def test_vectors_are_those_of_the_reference(reference: np.ndarray, real_engine: Embedder) -> None:
    cosines = (_embed(real_engine, TEXTS) * reference).sum(axis=1)
    # bfloat16, which "auto" takes where the processor has it, keeps 8 bits of each number.
    mean, least = (0.999, 0.998) if "/bf16/" in real_engine.model.fingerprint else (0.999999, 0.99999)
    assert cosines.mean() >= mean
    assert cosines.min() >= least


@pytest.mark.models
@pytest.mark.torch
def test_both_engines_give_one_fingerprint_and_the_same_tokens(opened: Callable[[str, str], Embedder]) -> None:
    ours, theirs = opened("openvino", "f32"), opened("sentence_transformers", "f32")
    assert ours.model.fingerprint == theirs.model.fingerprint
    assert (ours.model.max_tokens, ours.model.dimensions) == (theirs.model.max_tokens, theirs.model.dimensions)
    pairs = zip(ours.tokenize(TEXTS, TextKind.QUERY), theirs.tokenize(TEXTS, TextKind.QUERY), strict=True)
    for mine, other in pairs:
        np.testing.assert_array_equal(mine.ids, other.ids)
        assert mine.truncated == other.truncated


@pytest.mark.models
def test_a_graph_that_the_folder_brings_is_run_instead(tmp_path: Path, opened: Callable[[str, str], Embedder]) -> None:
    own = opened("openvino", "f32")
    folder = tmp_path / "model"
    shutil.copytree(resolve_model(EmbeddingSettings().model), folder)
    graph = bert_graph.build(open_folder(str(folder)).config, folder / "model.safetensors", "mean")
    openvino.save_model(graph, folder / "openvino_model.xml", compress_to_fp16=False)
    (folder / "model.safetensors").unlink()
    with contextlib.closing(open_engine(EmbeddingSettings(model=str(folder), precision="f32"))) as brought:
        np.testing.assert_allclose(_embed(brought, TEXTS[:4]), _embed(own, TEXTS[:4]), atol=1e-5)
        assert brought.model.dimensions == own.model.dimensions
        assert brought.model.fingerprint != own.model.fingerprint
