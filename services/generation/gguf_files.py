"""Rewrites a GGUF file so that OpenVINO loads it without loss.

OpenVINO keeps 4-bit weights with integer zero points. Formats with real-valued offsets (Q4_1, Q4_K and their like)
are rounded to them when they are loaded, which no precision setting mends: with SmolLM2-135M it halves the share of
right answers. Eight-bit blocks (Q8_0) hold the same values to within 0.4 % of each block's largest, so such a file is
rewritten once and kept.
"""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
from gguf.quants import dequantize, quant_shape_to_byte_shape, quantize
from pydantic import BaseModel, ValidationError

from serving.errors import FailedPrecondition

# Raised when the rewriting changes, so that files made by an older one are made again.
RECIPE = 1

LOADED_EXACTLY = frozenset(
    {GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q8_0}
)
_BLOCK_WEIGHTS = 32
_READ_BYTES = 1 << 20


class Manifest(BaseModel, frozen=True):
    """What a rewritten file was made from; written last, so that it vouches for a whole file."""

    recipe: int
    source_sha256: str
    result_sha256: str
    result_bytes: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What a GGUF file says of itself."""

    context_tokens: int
    """The model's window."""
    loads_exactly: bool
    """Whether OpenVINO keeps every weight as it is."""


def inspect(source: Path) -> Facts:
    """Reads a GGUF file's facts. Raises FailedPrecondition when it is none."""
    try:
        reader = GGUFReader(source)
        architecture = reader.fields["general.architecture"].contents()
        context_tokens = int(reader.fields[f"{architecture}.context_length"].contents())
    except (ValueError, KeyError, IndexError) as error:
        raise FailedPrecondition(
            f"{source.name} is no readable GGUF model: {error}", reason="MODEL_UNUSABLE"
        ) from error
    return Facts(context_tokens, all(tensor.tensor_type in LOADED_EXACTLY for tensor in reader.tensors))


def rewrite_once(source: Path, folder: Path, progress: Callable[[float], None]) -> Path:
    """The Q8_0 form of `source` in `folder`, made unless a whole one is there; `progress` hears the share done, 0 to 1.

    Safe to call from several processes at once: one makes the file, the others wait for it. A kill leaves no half
    file under the final name, and a file that no longer matches its manifest is made again. Raises OSError and
    ValueError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source_sha256 = _sha256(source)
    result = folder / f"{source.stem}-{source_sha256[:16]}-Q8_0.gguf"
    manifest_path = result.with_suffix(".json")
    with _locked(result.with_suffix(".lock")):
        if _is_whole(result, manifest_path, source_sha256):
            progress(1.0)
            return result
        # The lock makes a fixed name safe, and what a killed process left under it is overwritten.
        temporary = result.with_suffix(".tmp")
        _rewrite(source, temporary, progress)
        manifest = Manifest(
            recipe=RECIPE,
            source_sha256=source_sha256,
            result_sha256=_sha256(temporary),
            result_bytes=temporary.stat().st_size,
        )
        # An old manifest must not vouch for the new file, nor the new one for an old file.
        manifest_path.unlink(missing_ok=True)
        _publish(temporary, result)
        manifest_temporary = manifest_path.with_suffix(".json.tmp")
        manifest_temporary.write_text(manifest.model_dump_json(indent=2) + "\n")
        _publish(manifest_temporary, manifest_path)
    return result


def _rewrite(source: Path, result: Path, progress: Callable[[float], None]) -> None:
    reader = GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = GGUFWriter(result, architecture)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        sub_type = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type)
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    for tensor in reader.tensors:
        kind = _target_type(tensor)
        byte_shape = quant_shape_to_byte_shape([int(size) for size in reversed(tensor.shape)], kind)
        writer.add_tensor_info(tensor.name, byte_shape, np.dtype(np.uint8), int(np.prod(byte_shape)), raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for done, tensor in enumerate(reader.tensors, start=1):
            writer.write_tensor_data(_converted(tensor))
            progress(done / len(reader.tensors))
    finally:
        writer.close()


def _target_type(tensor: Any) -> GGMLQuantizationType:
    kind: GGMLQuantizationType = tensor.tensor_type
    if kind in LOADED_EXACTLY:
        return kind
    # A row that cannot be cut into blocks stays in floating point.
    return GGMLQuantizationType.F16 if tensor.shape[0] % _BLOCK_WEIGHTS else GGMLQuantizationType.Q8_0


def _converted(tensor: Any) -> np.ndarray[Any, Any]:
    kind = _target_type(tensor)
    if kind == tensor.tensor_type:
        data: np.ndarray[Any, Any] = tensor.data
        return data
    converted: np.ndarray[Any, Any] = quantize(dequantize(tensor.data, tensor.tensor_type), kind)
    return converted


def _is_whole(result: Path, manifest_path: Path, source_sha256: str) -> bool:
    try:
        manifest = Manifest.model_validate_json(manifest_path.read_bytes())
        return (
            manifest.recipe == RECIPE
            and manifest.source_sha256 == source_sha256
            and manifest.result_bytes == result.stat().st_size
            and manifest.result_sha256 == _sha256(result)
        )
    except (FileNotFoundError, ValidationError):
        return False


def _publish(temporary: Path, final: Path) -> None:
    """Makes a written file appear under its name, whole, and stay there after a power cut."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(final)
    folder = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """Holds an advisory lock that dies with its process."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
