"""Between the gateway's values and the messages that it shares with the other services."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
from headwater.common.v1 import common_pb2

from .embedder import Matrix
from .values import Coverage, Hit, Progress, Scope, Timing, WriteToken


def scope_message(scope: Scope) -> common_pb2.Scope:
    return common_pb2.Scope(tenant=scope.tenant, collection_id=scope.collection_id, access_groups=scope.access_groups)


def token_message(token: WriteToken | None) -> common_pb2.WriteToken | None:
    if token is None:
        return None
    return common_pb2.WriteToken(
        log_id=token.log_id,
        collections_offset=token.collections_offset,
        documents_offsets=token.documents_offsets,
    )


def token_value(message: common_pb2.WriteToken) -> WriteToken:
    return WriteToken(message.log_id, message.collections_offset, dict(message.documents_offsets))


def hit_message(hit: Hit) -> common_pb2.Hit:
    """Hits pass through as they came from a shard."""
    return cast(common_pb2.Hit, hit)


def progress_message(progress: Progress) -> common_pb2.PartitionProgress:
    return common_pb2.PartitionProgress(
        generation=progress.generation,
        partition=progress.partition,
        documents_offset=progress.documents_offset,
        index_offset=progress.index_offset,
    )


def progress_value(message: common_pb2.PartitionProgress) -> Progress:
    return Progress(message.partition, message.generation, message.documents_offset, message.index_offset)


def coverage_message(coverage: Coverage) -> common_pb2.Coverage:
    return common_pb2.Coverage(
        partitions_answered=coverage.answered, partitions_total=coverage.total, partitions_missing=coverage.missing
    )


def coverage_value(message: common_pb2.Coverage) -> Coverage:
    return Coverage(message.partitions_total, tuple(message.partitions_missing))


def timing_messages(timings: Iterable[Timing]) -> Sequence[common_pb2.StageTiming]:
    return [common_pb2.StageTiming(stage=one.stage, milliseconds=one.milliseconds) for one in timings]


def vectors_message(matrix: Matrix) -> common_pb2.Vectors:
    """matrix: float32 [count, dimensions]."""
    count, dimensions = matrix.shape
    return common_pb2.Vectors(data=matrix.astype("<f4").tobytes(), dimensions=dimensions, count=count)


def matrix_value(message: common_pb2.Vectors) -> Matrix:
    return np.frombuffer(message.data, dtype="<f4").reshape(message.count, message.dimensions)
