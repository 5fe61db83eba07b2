"""An immutable run of a collection's rows, searched exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import faiss
import numpy as np
import numpy.typing as npt

from .rows import Matrix, RowIds

Mask = npt.NDArray[np.bool_]
LabelIds = npt.NDArray[np.uint32]

# Below this share of visible rows it is cheaper to gather them than to search past the others.
GATHER_BELOW = 0.3
GATHER_ROWS = 16_384


class Candidates(NamedTuple):
    """The best rows of each query, best first: two (queries, found) arrays."""

    scores: Matrix
    rows: RowIds


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Rows in ascending order of their ids. `dead` marks those that were replaced or deleted since it was made."""

    rows: RowIds
    vectors: Matrix
    labels: LabelIds
    dead: Mask | None = None
    live: int = -1

    def __post_init__(self) -> None:
        if self.live < 0:
            object.__setattr__(self, "live", len(self.rows) - (0 if self.dead is None else int(self.dead.sum())))

    def without(self, removed: RowIds) -> Segment:
        """The same without these rows; `removed` may hold rows of other segments, and is ascending."""
        at = np.searchsorted(self.rows, removed)
        at = at[at < len(self.rows)]
        found = at[np.isin(self.rows[at], removed)]
        if not len(found):
            return self
        dead = np.zeros(len(self.rows), np.bool_) if self.dead is None else self.dead.copy()
        dead[found] = True
        return replace(self, dead=dead, live=-1)

    def search(self, queries: Matrix, k: int, visible: Mask) -> Candidates:
        """The k best rows whose label is visible (one flag a label), by inner product."""
        mask = self._mask(visible)
        if mask is None:
            scores, at = _nearest(queries, self.vectors, k)
            return Candidates(scores, self.rows[at])
        survivors = int(np.count_nonzero(mask))
        if survivors < GATHER_BELOW * len(self.rows):
            return self._among(queries, k, np.flatnonzero(mask))
        return self._past_hidden(queries, k, mask, survivors)

    def _mask(self, visible: Mask) -> Mask | None:
        mask = None if visible.all() else visible[self.labels]
        if self.dead is None:
            return mask
        return ~self.dead if mask is None else mask & ~self.dead

    def _past_hidden(self, queries: Matrix, k: int, mask: Mask, survivors: int) -> Candidates:
        """Fetch more than k and drop what is hidden: the visible among the nearest are the nearest visible."""
        hidden = len(self.rows) - survivors
        k = min(k, survivors)
        expected = math.ceil(1.5 * k * len(self.rows) / survivors) + 32
        scores, at = _nearest(queries, self.vectors, min(k + hidden, expected))
        keep = mask[at]
        order = np.argsort(~keep, axis=1, kind="stable")[:, :k]
        rows = np.take_along_axis(self.rows[at], order, axis=1)
        scores = np.take_along_axis(scores, order, axis=1)
        short = np.flatnonzero(keep.sum(axis=1) < k)
        if len(short):
            scores[short], rows[short] = self._among(queries[short], k, np.flatnonzero(mask))
        return Candidates(scores, rows)

    def _among(self, queries: Matrix, k: int, survivors: npt.NDArray[np.intp]) -> Candidates:
        """Search these rows alone, in blocks, so that never more than one block is copied."""
        found = [none_found(len(queries))]
        for start in range(0, len(survivors), GATHER_ROWS):
            block = survivors[start : start + GATHER_ROWS]
            scores, at = _nearest(queries, self.vectors[block], k)
            found.append(Candidates(scores, self.rows[block[at]]))
        return best(found, k)


def none_found(queries: int) -> Candidates:
    """No candidates at all."""
    return Candidates(np.empty((queries, 0), np.float32), np.empty((queries, 0), np.int64))


def best(found: Sequence[Candidates], k: int) -> Candidates:
    """The k best of several; equal scores in the order of their row ids."""
    scores = np.concatenate([candidates.scores for candidates in found], axis=1)
    rows = np.concatenate([candidates.rows for candidates in found], axis=1)
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return Candidates(np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1))


def merged(segments: Sequence[Segment]) -> Segment:
    """One segment of the live rows of several that follow each other, oldest first."""
    size = sum(segment.live for segment in segments)
    rows = np.empty(size, np.int64)
    labels = np.empty(size, np.uint32)
    vectors = np.empty((size, segments[0].vectors.shape[1]), np.float32)
    start = 0
    for segment in segments:
        end = start + segment.live
        if segment.dead is None:
            rows[start:end], labels[start:end], vectors[start:end] = segment.rows, segment.labels, segment.vectors
        else:
            alive = ~segment.dead
            np.compress(alive, segment.rows, out=rows[start:end])
            np.compress(alive, segment.labels, out=labels[start:end])
            np.compress(alive, segment.vectors, axis=0, out=vectors[start:end])
        start = end
    return Segment(rows, vectors, labels)


def _nearest(queries: Matrix, vectors: Matrix, k: int) -> tuple[Matrix, npt.NDArray[np.int64]]:
    """What IndexFlatIP does, on vectors that stay where they are."""
    found: tuple[Matrix, npt.NDArray[np.int64]] = faiss.knn(
        queries, vectors, min(k, len(vectors)), metric=faiss.METRIC_INNER_PRODUCT
    )
    return found
