"""The command, from arguments to output and exit code, against a gateway in memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from headwater._command.app import app
from typer.testing import CliRunner

EXECUTABLE = Path(sys.executable).with_name("headwater")


@pytest.fixture
def run(served: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command in this process."""
    monkeypatch.setenv("HEADWATER_ADDRESS", served.address)
    monkeypatch.delenv("HEADWATER_API_KEY", raising=False)

    def run(*arguments: str, stdin: str | None = None) -> Any:
        return CliRunner().invoke(app, arguments, input=stdin)

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of documents, and of what is none."""
    root = tmp_path / "docs"
    (root / "deep" / ".hidden").mkdir(parents=True)
    (root / "a.txt").write_text("plain")
    (root / "deep" / "b.MD").write_text("# marked")
    (root / "deep" / "c.html").write_text("<p>html")
    (root / "image.png").write_bytes(b"\x89PNG")
    (root / ".secret.txt").write_text("hidden")
    (root / "deep" / ".hidden" / "d.txt").write_text("hidden")
    (root / "deep" / "loop").symlink_to(root)
    return root


def test_a_folder_is_ingested_by_relative_path(run: Any, gateway: Any, folder: Path) -> None:
    result = run("ingest", "c", str(folder))
    assert result.exit_code == 0, result.output
    assert {one.document_id for one in gateway.log if one.write_id} == {"a.txt", "deep/b.MD", "deep/c.html"}
    types = {attempt.document.id: attempt.document.content_type for attempt in gateway.attempts}
    assert types == {"a.txt": "text/plain", "deep/b.MD": "text/markdown", "deep/c.html": "text/html"}
    assert result.stdout == "3 documents accepted\n"
    assert "skipped 1 files" in result.stderr
    assert "c" in gateway.collections


def test_json_lines_end_with_one_line_of_json(run: Any, gateway: Any, tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text(
        '{"id": "1", "text": "one", "title": "One", "metadata": {"year": 1}, "author": "x"}\n'
        '\n{"id": "2", "text": "two"}\n'
    )
    gateway.rejects["2"] = "it says nothing"
    result = run("ingest", "c", str(path), "--wait", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout.splitlines()[-1]) == {
        "accepted": 2,
        "indexed": 1,
        "rejected": [{"id": "2", "reason": "it says nothing"}],
        "token": "3",
    }
    assert gateway.attempts[0].document.metadata["year"].number_value == 1
    assert "not used: author" in result.stderr


def test_a_bad_line_is_named_and_the_others_are_taken(run: Any, gateway: Any, tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(
        b'{"id": "1", "text": "one"}\n{"id": \n{"id": "x", "text": "\xff"}\n[]\n{"id": "2", "text": "two"}'
    )
    result = run("ingest", "c", str(path), "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert (report["accepted"], report["indexed"]) == (2, None)
    reasons = {one["id"].rpartition(":")[2]: one["reason"] for one in report["rejected"]}
    assert reasons["2"].startswith("not JSON")
    assert reasons["3"].startswith("not UTF-8 at byte")
    assert reasons["4"].startswith("not a JSON object")


def test_standard_input_is_json_lines(run: Any, gateway: Any) -> None:
    assert run("ingest", "c", "-", stdin='{"id": "1", "text": "one"}\n').exit_code == 0
    assert gateway.texts("1") == ["one"]


def test_a_collection_is_not_made_against_ones_will(run: Any, gateway: Any, folder: Path) -> None:
    assert run("ingest", "c", str(folder), "--no-create").exit_code == 0
    assert not gateway.collections


def test_two_files_for_one_document_are_wrong_usage(run: Any, gateway: Any, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
    result = run("ingest", "c", str(tmp_path / "one"), str(tmp_path / "two"))
    assert result.exit_code == 2
    assert not gateway.calls


@pytest.mark.parametrize("path", ["absent.txt", "image.png"])
def test_a_path_that_cannot_be_ingested_is_wrong_usage(run: Any, gateway: Any, tmp_path: Path, path: str) -> None:
    (tmp_path / "image.png").write_bytes(b"")
    assert run("ingest", "c", str(tmp_path / path)).exit_code == 2
    assert not gateway.calls


def test_search_prints_one_json_line_a_query(run: Any, gateway: Any, tmp_path: Path) -> None:
    run("ingest", "c", "-", stdin='{"id": "a", "text": "one"}\n')
    path = tmp_path / "queries.jsonl"
    path.write_text("".join(json.dumps({"id": str(number), "text": "q"}) + "\n" for number in range(70)))
    result = run("search", "c", "--queries", str(path), "-k", "3", "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["id"] for line in lines] == [str(number) for number in range(70)]
    assert lines[0]["hits"] == [{"document_id": "a", "chunk": 0, "score": 1.0, "text": "one"}]
    assert lines[0]["coverage"] == {"partitions_answered": 4, "partitions_total": 4, "partitions_missing": []}


def test_search_is_readable(run: Any) -> None:
    run("ingest", "c", "-", stdin='{"id": "a", "text": "one \\u001b[31m red"}\n')
    result = run("search", "c", "what?")
    assert "a#0" in result.stdout
    assert "\x1b" not in result.stdout


def test_search_wants_one_kind_of_query(run: Any) -> None:
    assert run("search", "c").exit_code == 2
    assert run("search", "c", "q", "--queries", "f.jsonl").exit_code == 2


def test_a_bad_line_of_queries_is_named(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_text('{"id": "1", "text": "one"}\n{"id": "2"}\n')
    result = run("search", "c", "--queries", str(path))
    assert result.exit_code == 1
    assert 'queries.jsonl:2: "text" is missing' in result.stderr


def test_ask_streams_the_answer_with_its_sources(run: Any) -> None:
    result = run("ask", "c", "how much leave?", "--timings")
    assert result.exit_code == 0
    assert result.stdout.startswith("30 days [1].\n")
    assert " [1] Leave (leave)\n     “Leave is 30 days.”" in result.stdout
    assert "total" in result.stdout
    assert "one of four partitions did not answer" in result.stderr


def test_ask_prints_json(run: Any, gateway: Any) -> None:
    answer = json.loads(run("ask", "c", "how much leave?", "--json", "--no-cache", "--strict", "--after", "t").stdout)
    assert answer["answer"] == "30 days [1]."
    assert answer["citations"][0]["evidence"] == "Leave is 30 days."
    assert answer["cache"] == "miss"
    assert answer["degraded"] == [{"kind": "partial_coverage", "message": "one of four partitions did not answer"}]
    assert set(answer) >= {"passages", "usage", "timings_ms", "evidence", "coverage"}
    (request,) = gateway.calls_of("Ask")
    assert (request.cache, request.strict, request.after) == (2, True, "t")


def test_documents_are_deleted(run: Any, gateway: Any) -> None:
    run("ingest", "c", "-", stdin='{"id": "a", "text": "one"}\n{"id": "b", "text": "two"}\n')
    assert json.loads(run("delete", "c", "a", "--json").stdout)["deleted"] == 1
    assert run("delete", "c", "--all").exit_code == 2  # nobody is there to confirm
    assert gateway.texts("b") == ["two"]
    assert run("delete", "c", "--all", "--yes").exit_code == 0
    assert gateway.texts("b")[-1] is None


def test_collections_are_listed_made_shown_and_deleted(run: Any, gateway: Any) -> None:
    assert "no collections yet" in run("collections").stdout
    assert run("collections", "create", "c", "--spread", "8").exit_code == 0
    assert [json.loads(line)["name"] for line in run("collections", "--json").stdout.splitlines()] == ["c"]
    assert json.loads(run("collections", "show", "c", "--json").stdout)["spread"] == 8
    assert run("collections", "delete", "c", "--yes").exit_code == 0
    assert not gateway.collections


def test_status_says_what_runs(run: Any) -> None:
    assert json.loads(run("status", "--json").stdout)["services"][0] == {
        "name": "gateway",
        "ready": True,
        "detail": "1.0",
    }
    assert "gateway" in run("status").stdout


def test_a_failure_is_one_line_that_says_what_to_do(run: Any, gateway: Any) -> None:
    failure = (grpc.StatusCode.NOT_FOUND, "no collection 'c'", {"reason": "COLLECTION_NOT_FOUND"})
    gateway.failures.extend([failure] * 2)
    result = run("search", "c", "q")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: no collection 'c'; `headwater collections` lists what there is\n"
    result = run("search", "c", "q", "--json")
    assert json.loads(result.stdout)["error"]["reason"] == "COLLECTION_NOT_FOUND"


def test_a_gateway_that_is_not_there_is_named(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_ADDRESS", "127.0.0.1:1")
    result = run("status")
    assert result.exit_code == 1
    assert "127.0.0.1:1" in result.stderr
    assert "make up" in result.stderr


def test_the_key_is_not_sent_unencrypted_elsewhere(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_API_KEY", "secret")
    result = run("--address", "192.0.2.1:8001", "status")
    assert result.exit_code == 1
    assert "--insecure" in result.stderr
    assert "secret" not in result.stderr


@pytest.mark.parametrize(
    "command", [[], ["ingest"], ["search"], ["ask"], ["delete"], ["status"], ["collections"], ["doctor"]]
)
def test_every_command_has_help(run: Any, command: list[str]) -> None:
    assert run(*command, "--help").exit_code == 0


def test_help_and_version_do_not_wait_for_grpc() -> None:
    code = (
        "import sys; from headwater._command.app import app; "
        "app(['--version'], standalone_mode=False); print('grpc' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    version, loaded = done.stdout.split("\n")[:2]
    assert version.startswith("headwater 0.")
    assert loaded == "False"


def test_interrupting_says_what_was_accepted(served: Any) -> None:
    served.gateway.actions.extend(["acknowledge", *["silence"] * 64])
    process = subprocess.Popen(
        [EXECUTABLE, "ingest", "c", "-", "--json"],
        env={**os.environ, "HEADWATER_ADDRESS": served.address},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # tests that a shell runs in the background ignore it, and their children would
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdin is not None
    process.stdin.write("".join(json.dumps({"id": str(number), "text": "x"}) + "\n" for number in range(65)))
    process.stdin.flush()
    # 64 are on their way at most: once the 65th has come, the acknowledgement of the first has been seen.
    while len(served.gateway.attempts) < 65 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert "interrupted: 1 documents were accepted; of 64 more it is not known" in err
    assert "Traceback" not in err
    assert json.loads(out.splitlines()[-1]) == {
        "accepted": 1,
        "indexed": None,
        "rejected": [],
        "token": "2",
        "interrupted": True,
    }


def test_a_reader_that_goes_away_is_no_traceback(served: Any) -> None:
    command = f"{EXECUTABLE} search c q --json | true"
    done = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, "HEADWATER_ADDRESS": served.address},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
