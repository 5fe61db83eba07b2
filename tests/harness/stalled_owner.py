"""An owner in a process of its own, for a test to stall: `python -m tests.harness.stalled_owner SETTINGS KEY VALUE`.

Takes index partition 0 and says so; at a line on its input appends the record, and says what came of it.
"""

import asyncio
import sys

from serving.errors import HeadwaterError
from serving.eventlog import LogSettings, Topic, open_log


async def main(settings: str, key: str, value: str) -> None:
    async with open_log(LogSettings.model_validate_json(settings)) as log:
        owned = await log.take(Topic.INDEX, 0)
        print("taken", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        try:
            await owned.append([(key.encode(), value.encode())])
            print("appended", flush=True)
        except HeadwaterError as error:
            print(type(error).__name__, flush=True)
        await owned.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
