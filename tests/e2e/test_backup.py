"""Everything lost but a backup: what was acknowledged before it is there again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from headwater import Client, Document, DocumentState, FailedPrecondition

from tests.e2e.conftest import QUOTING
from tests.harness.processes import Processes, running_stack

COUNT = 60


def log_command(processes: Processes, *arguments: str) -> dict[str, object]:
    """Run a command of `python -m serving.eventlog` on the stack's log."""
    environment = os.environ | {"HEADWATER_LOG__PATH": str(processes.stack.log_settings.path)}
    command = [sys.executable, "-m", "serving.eventlog", *arguments, "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def states(client: Client) -> dict[str, tuple[DocumentState, int, str]]:
    return {one.document_id: (one.state, one.chunks, one.reason) for one in client.list_documents("kept")}


def test_every_state_folder_lost_and_restored_from_a_backup(state: Path, tmp_path: Path) -> None:
    file = tmp_path / "backup.gz"
    with running_stack(state, settings=QUOTING) as processes:
        with Client(processes.stack.address) as client:
            client.create_collection("kept")
            client.create_collection("gone")
            client.put("gone", [Document("secret", text="The canary is in a deleted collection.")])
            client.delete_collection("gone")
            client.put("kept", [Document(f"d{n}", text=f"Fact{n} is old.") for n in range(COUNT)])
            client.put("kept", [Document(f"d{n}", text=f"Fact{n} is new.") for n in range(0, COUNT, 2)])
            client.put("kept", [Document("bad", body=b"%PDF-1.7 no", content_type="application/pdf")])
            client.delete("kept", [f"d{n}" for n in range(0, COUNT, 10)])
            old_token = client.put("kept", [Document("last", text="The last fact before the backup.")]).token
            assert [hit.text for hit in client.search("kept", "last fact", k=1, after=old_token)]
            before = states(client)

            summary = log_command(processes, "backup", str(file))
            assert summary["documents"] == len(before)
            client.put("kept", [Document("after", text="A fact after the backup.")])

        for name in list(processes.names):
            processes.kill(name)
        shutil.rmtree(state)
        (state / "log").mkdir(parents=True)
        log_command(processes, "init")
        assert log_command(processes, "restore", str(file)) == summary
        for name in processes.names:
            processes.start(name)
        processes.wait_ready()

        with Client(processes.stack.address) as client:
            list(client.watch("kept", list(before), timeout=60))
            assert states(client) == before
            texts = {hit.document_id: hit.text for hit in client.search("kept", "fact", k=1000)}
            for number in range(COUNT):
                age = "old" if number % 2 else "new"
                expected = None if number % 10 == 0 else f"Fact{number} is {age}."
                assert texts.get(f"d{number}") == expected
            assert [collection.name for collection in client.list_collections()] == ["kept"]
            with pytest.raises(FailedPrecondition) as raised:
                client.search("kept", "fact", after=old_token)
            assert raised.value.reason == "LOG_REPLACED"
