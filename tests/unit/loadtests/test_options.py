"""What a run may be told, and where it may go."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import pytest

from loadtests.content import read_texts
from loadtests.local_stack import FakeEngines
from loadtests.options import add_options, arguments_of, options_of, read_mix
from loadtests.target import RefusedTarget, check_target
from loadtests.tenants import documents_of, keys_file, read_tenants
from loadtests.workload import Workload

HERE = "--address=127.0.0.1:8001"


def given(*arguments: str) -> Namespace:
    parser = ArgumentParser()
    add_options(parser)
    return parser.parse_args([HERE, *arguments])


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.7:8001",
        "localhost:8001",
        "example.org:8001",
        "127.0.0.1.example.org:8001",
        "127.0.0.1@example.org:8001",
        "https://127.0.0.1:8001",
        "dns:///127.0.0.1:8001",
        "127.0.0.1:8001,10.0.0.7:8001",
        "127.0.0.1:8001\n",
        "0.0.0.0:8001",
        "[::1]:8001",
        "127.0.0.1",
        "127.0.0.1:0",
        "127.0.0.1:99999",
    ],
)
def test_load_goes_to_this_machine_alone(address: str) -> None:
    with pytest.raises(RefusedTarget, match=r"127\.0\.0\.1:PORT only"):
        check_target(address, owned=False)


def test_whoever_owns_another_target_says_so() -> None:
    assert check_target("127.0.0.1:8001", owned=False) == "127.0.0.1:8001"
    assert check_target("10.0.0.7:8001", owned=True) == "10.0.0.7:8001"
    with pytest.raises(RefusedTarget, match="--address"):
        check_target("", owned=True)
    with pytest.raises(RefusedTarget):
        options_of(given("--address=10.0.0.7:8001"))
    assert options_of(given("--address=10.0.0.7:8001", "--i-own-this-target")).address == "10.0.0.7:8001"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rate=0"], "--rate"),
        (["--rate=nan"], "--rate"),
        (["--rate=100000"], "--rate"),
        (["--seconds=1e9"], "--seconds"),
        (["--shape=spike", "--rate=9000"], "--spike-factor"),
        (["--max-in-flight=0"], "--max-in-flight"),
        (["--rate=100", "--seconds=100", "--max-requests=5000"], "about 10,000 requests"),
        (["--loop=closed", "--shape=step"], "--loop open"),
        (["--zipf=-1"], "--zipf"),
        (["--mix=ask=0"], "one weight"),
        (["--mix=delete=1"], "'delete=1'"),
        (["--mix=ask=nan"], "'ask=nan'"),
    ],
)
def test_a_run_without_bounds_or_sense_is_refused(arguments: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        options_of(given(*arguments))


def test_shares_sum_to_one() -> None:
    assert read_mix("ask=8,search=2,put=0") == {"ask": 0.8, "search": 0.2}
    assert read_mix("search") == {"search": 1.0}


def test_another_process_is_given_the_same_options() -> None:
    asked = given("--shape=spike", "--rate=7.5", "--no-cache", "--mix=ask=1,put=1", "--questions=some file.jsonl")
    again = ArgumentParser()
    add_options(again)
    assert again.parse_args(arguments_of(asked)) == asked


def test_a_line_that_is_no_question_is_named(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"id": 7, "text": "Why?"}\n\n{"text": "When?"}\n')
    assert [(one.id, one.text) for one in read_texts(path)] == [("7", "Why?"), ("3", "When?")]
    path.write_text('{"id": "1", "text": "Why?"}\n{"id": "2"}\n')
    with pytest.raises(ValueError, match=r"questions\.jsonl:2"):
        read_texts(path)
    path.write_text("\n")
    with pytest.raises(ValueError, match="holds nothing"):
        read_texts(path)
    with pytest.raises(ValueError, match="No such file"):
        read_texts(tmp_path / "none.jsonl")


def test_tenants_ask_and_hold_as_much_as_their_weights_say(tmp_path: Path) -> None:
    path = tmp_path / "tenants.json"
    path.write_text(
        json.dumps({"tenants": [{"name": "large", "key": "k1", "weight": 9}, {"name": "small", "key": "k2"}]})
    )
    tenants = read_tenants(path)
    assert documents_of(tenants, 100) == {"large": 90, "small": 10}
    assert documents_of(tenants, 1) == {"large": 1, "small": 1}
    workload = Workload(options_of(given(f"--tenants={path}", "--mix=ask=1,put=1")))
    drawn = [workload.draw(0, 0.0) for _ in range(4000)]
    assert sum(one.tenant.name == "large" for one in drawn) == pytest.approx(3600, abs=100)
    puts = [one for one in drawn if one.operation == "put" and one.tenant.name == "small"]
    held = {text.id for text in workload.documents_of(tenants[1])}
    assert {one.document_id for one in puts} == held  # replaced, and not added to
    assert len({one.text for one in puts}) == len(puts)  # each a change


def test_a_gateway_is_told_hashes_and_no_keys(tmp_path: Path) -> None:
    path = tmp_path / "tenants.json"
    path.write_text(json.dumps({"tenants": [{"name": "one", "key": "a-secret"}]}))
    told = keys_file(read_tenants(path))
    assert "a-secret" not in told
    assert json.loads(told)["keys"][0]["tenant"] == "one"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "'tenants' is missing"),
        ('{"tenants": [{"name": "a"}]}', "'key' is missing"),
        ('{"tenants": [{"name": "a", "key": "k", "weight": 0}]}', "above 0"),
        ('{"tenants": [{"name": "a", "key": "k"}, {"name": "b", "key": "k"}]}', "same key"),
        ('{"tenants": []}', "names no tenant"),
        ("nothing", "not a file of tenants"),
    ],
)
def test_a_file_of_tenants_that_cannot_be_used_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "tenants.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=said):
        read_tenants(path)


@pytest.mark.parametrize(
    ("more", "said"),
    [({"slots": 0}, "--slots is 0"), ({"slots": 5000}, "to 4,096"), ({"token_ms": -1.0}, "--token-ms is -1")],
)
def test_engines_that_no_service_would_take_are_refused_before_anything_starts(more: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FakeEngines(**{"embed_ms": 5.0, "first_token_ms": 100.0, "token_ms": 10.0, "slots": 16} | more)
