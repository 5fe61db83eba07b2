"""Taking a retired collection's documents out of the log (rule 3): the only nulls there are."""

from __future__ import annotations

from collections.abc import Set
from typing import Final

from serving import telemetry
from serving.errors import HeadwaterError
from serving.eventlog import EventLog, Reader, Topic

_log = telemetry.get_logger(__name__)

_READ_RECORDS: Final = 200
_TRANSACTION_RECORDS: Final = 500


async def keys_of(log: Reader, topic: Topic, partition: int, collection_ids: Set[str]) -> list[bytes]:
    """The collections' keys in a partition, whose newest record is not null."""
    prefixes = {collection_id.encode() for collection_id in collection_ids}
    offset, end_offset = await log.bounds(topic, partition)
    keys: dict[bytes, None] = {}
    while offset < end_offset:
        batch = await log.read(topic, partition, offset, max_records=_READ_RECORDS)
        for record in batch.records:
            if record.value is None:
                keys.pop(record.key, None)
            elif record.key.split(b"/", 1)[0] in prefixes:
                keys[record.key] = None
        offset = batch.next_offset
    return list(keys)


async def erase_documents(log: EventLog, partition: int, collection_ids: Set[str]) -> None:
    """Null the collections' keys in `headwater.documents`.

    Safe whatever else is appended there: workers make nothing of a retired collection's records, nor of nulls. The
    fence only keeps two erasers apart. What fails here is tried again by the next owner.
    """
    keys = await keys_of(log, Topic.DOCUMENTS, partition, collection_ids)
    if not keys:
        return
    try:
        owned = await log.take(Topic.DOCUMENTS, partition)
        try:
            for start in range(0, len(keys), _TRANSACTION_RECORDS):
                await owned.append([(key, None) for key in keys[start : start + _TRANSACTION_RECORDS]])
        finally:
            await owned.close()
    except HeadwaterError as error:
        _log.warning("retired documents not erased", partition=partition, reason=error.reason, message=error.message)
