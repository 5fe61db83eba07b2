"""Rewriting a GGUF file: the same weights, one whole file, whoever makes it."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import dequantize, quantize

from services.generation.gguf_files import inspect, rewrite_once
from serving.errors import FailedPrecondition


def _ignore(share: float) -> None:
    pass


def _weights(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {tensor.name: dequantize(tensor.data, tensor.tensor_type) for tensor in GGUFReader(path).tensors}


def _write(path: Path, kind: GGMLQuantizationType) -> Path:
    random = np.random.default_rng(7)
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_token_list(["a", "b"])
    writer.add_tensor("quantised", quantize(random.normal(0.3, 1, (8, 64)).astype(np.float32), kind), raw_dtype=kind)
    writer.add_tensor("float", random.normal(size=(5,)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return _write(tmp_path / "model.Q4_1.gguf", GGMLQuantizationType.Q4_1)


@pytest.mark.parametrize(("kind", "exactly"), [(GGMLQuantizationType.Q4_1, False), (GGMLQuantizationType.Q8_0, True)])
def test_a_files_facts(tmp_path: Path, kind: GGMLQuantizationType, exactly: bool) -> None:
    facts = inspect(_write(tmp_path / "model.gguf", kind))
    assert (facts.context_tokens, facts.loads_exactly) == (512, exactly)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.gguf"
    path.write_text("these are notes, and quite a few of them, but no model")
    with pytest.raises(FailedPrecondition, match=r"notes\.gguf"):
        inspect(path)


def test_weights_and_metadata_survive(source: Path, tmp_path: Path) -> None:
    result = rewrite_once(source, tmp_path / "models", _ignore)
    before, after = _weights(source), _weights(result)
    assert np.array_equal(before["float"], after["float"])
    largest = np.abs(before["quantised"]).max()
    assert np.abs(before["quantised"] - after["quantised"]).max() <= largest / 127
    assert inspect(result).loads_exactly
    assert GGUFReader(result).fields["tokenizer.ggml.tokens"].contents() == ["a", "b"]


def test_a_whole_file_is_kept(source: Path, tmp_path: Path) -> None:
    first = rewrite_once(source, tmp_path / "models", _ignore)
    made = first.stat().st_mtime_ns
    assert rewrite_once(source, tmp_path / "models", _ignore) == first
    assert first.stat().st_mtime_ns == made


def test_a_damaged_file_is_made_again(source: Path, tmp_path: Path) -> None:
    result = rewrite_once(source, tmp_path / "models", _ignore)
    whole = result.read_bytes()
    result.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    rewrite_once(source, tmp_path / "models", _ignore)
    assert result.read_bytes() == whole


def test_a_file_without_its_manifest_is_made_again(source: Path, tmp_path: Path) -> None:
    result = rewrite_once(source, tmp_path / "models", _ignore)
    whole = result.read_bytes()
    result.with_suffix(".json").unlink()
    result.write_bytes(b"cut off")
    rewrite_once(source, tmp_path / "models", _ignore)
    assert result.read_bytes() == whole
    assert json.loads(result.with_suffix(".json").read_text())["result_bytes"] == len(whole)


def test_another_source_of_the_same_name_is_another_model(source: Path, tmp_path: Path) -> None:
    first = rewrite_once(source, tmp_path / "models", _ignore)
    _write(source, GGMLQuantizationType.Q5_1)
    assert rewrite_once(source, tmp_path / "models", _ignore) != first


def test_preparers_at_once_make_it_once(source: Path, tmp_path: Path) -> None:
    made: list[float] = []
    results: list[Path] = []

    def prepare() -> None:
        shares: list[float] = []
        results.append(rewrite_once(source, tmp_path / "models", shares.append))
        made.append(len(shares))

    threads = [threading.Thread(target=prepare) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(results)) == 1
    # A tensor each for the one that made it; the end at once for those that waited.
    assert sorted(made) == [1, 1, 1, 2]
