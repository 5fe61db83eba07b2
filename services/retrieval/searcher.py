"""The searcher: all that a shard can find, as one immutable snapshot that carries its own progress."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from .rows import NO_PROGRESS, Applied, CollectionKey, Label, Matrix, NewRows, Progress, RowIds
from .segment import Candidates, LabelIds, Mask, Segment, best, merged, none_found

# A segment is merged with the newer one behind it until it is this many times as large: so there are few, and a row is
# copied a logarithmic number of times.
SIZE_RATIO = 4
MAX_DEAD_SHARE = 0.25


class Labels:
    """The labels of a collection's rows, numbered. Only ever grows, so that older searchers can go on reading it."""

    def __init__(self) -> None:
        self._numbers: dict[Label, int] = {}
        self._labels: list[Label] = []

    def numbers(self, labels: Iterable[Label]) -> LabelIds:
        """The labels' numbers; new ones are given to those not seen before. Called by the one writer alone."""
        numbers = []
        for label in labels:
            number = self._numbers.get(label)
            if number is None:
                self._labels.append(label)
                number = self._numbers[label] = len(self._labels) - 1
            numbers.append(number)
        return np.array(numbers, np.uint32)

    def visible(self, partitions: frozenset[int], access_groups: frozenset[str]) -> Mask:
        """For each label, whether its rows may be seen."""
        return np.fromiter(
            (
                label.partition in partitions
                and (not label.access_groups or not access_groups.isdisjoint(label.access_groups))
                for label in list(self._labels)
            ),
            np.bool_,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Collection:
    """The live rows of one collection."""

    embedding_fingerprint: str
    dimensions: int
    labels: Labels
    segments: tuple[Segment, ...] = ()
    """Oldest first; ids ascend within and across them."""

    def search(self, queries: Matrix, k: int, visible: Mask) -> Candidates:
        """The k best visible rows of each query: queries (n, dimensions) float32 to scores and row ids (n, up to k)."""
        found = [none_found(len(queries))]
        found += [segment.search(queries, k, visible) for segment in self.segments]
        return best(found, k)

    def without(self, removed: RowIds) -> Collection:
        """The same without these rows."""
        segments = (segment.without(removed) for segment in self.segments)
        return replace(self, segments=tuple(segment for segment in segments if segment.live))

    def with_rows(self, added: NewRows) -> Collection:
        """The same with newer rows."""
        segment = Segment(added.ids, added.vectors, self.labels.numbers(added.labels))
        return replace(self, segments=(*self.segments, segment))

    def tidied(self) -> Collection:
        """The same rows in few segments with few dead rows; itself when they already are."""
        kept: list[Segment] = []
        for segment in self.segments:
            if segment.live < (1 - MAX_DEAD_SHARE) * len(segment.rows):
                segment = merged([segment])
            kept.append(segment)
            # all the sizes first, then one merge: a row is not copied once a segment
            size, first = segment.live, len(kept) - 1
            while first > 0 and kept[first - 1].live < SIZE_RATIO * size:
                first -= 1
                size += kept[first].live
            if first < len(kept) - 1:
                kept[first:] = [merged(kept[first:])]
        return self if tuple(kept) == self.segments else replace(self, segments=tuple(kept))


@dataclass(frozen=True, slots=True, eq=False)
class Searcher:
    """Everything below `progress` and nothing above it."""

    log_id: bytes
    progress: Mapping[int, Progress]
    """Of each owned partition."""
    collections: Mapping[CollectionKey, Collection] = field(default_factory=dict)

    def after(self, applied: Applied) -> Self:
        """The searcher that knows of one more transaction."""
        collections = dict(self.collections)
        for key, removed in applied.removed.items():
            if key in collections:
                collections[key] = collections[key].without(removed)
                if not collections[key].segments:
                    del collections[key]
        progress = {**self.progress, applied.partition: applied.progress}
        return replace(self, progress=progress, collections=collections).with_rows(applied.added)

    def with_rows(self, added: Mapping[CollectionKey, NewRows]) -> Self:
        """The searcher with more rows."""
        collections = dict(self.collections)
        for key, rows in added.items():
            former = collections.get(key) or Collection(rows.embedding_fingerprint, rows.vectors.shape[1], Labels())
            collections[key] = former.with_rows(rows)
        return replace(self, collections=collections)

    def without_collections(self, collection_ids: frozenset[str]) -> Self:
        """The searcher that has forgotten these."""
        kept = {key: found for key, found in self.collections.items() if key.collection_id not in collection_ids}
        return replace(self, collections=kept)

    def tidied(self, keys: Iterable[CollectionKey]) -> Self:
        """The same rows, in fewer segments in these collections; itself when there is nothing to do."""
        tidied = {key: self.collections[key].tidied() for key in keys if key in self.collections}
        if all(self.collections[key] is collection for key, collection in tidied.items()):
            return self
        return replace(self, collections={**self.collections, **tidied})

    def behind(self, documents_offsets: Mapping[int, int]) -> dict[int, int]:
        """Of the offsets that are to be seen, by partition, those that are not yet."""
        return {
            partition: offset
            for partition, offset in documents_offsets.items()
            if self.progress.get(partition, NO_PROGRESS).documents_offset <= offset
        }
