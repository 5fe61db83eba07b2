"""How good retrieval and answers are on a question set of yours, through the whole stack with its default models.

The data is a file in the format of SQuAD (XQuAD, and many more): every paragraph becomes a document. Nothing is tuned
to a data set, and none comes with the project: `make bench BENCH=quality DATA=path.json`. Every answer goes into
benchmarks/results/quality-answers.jsonl, to be read.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import grpc
import numpy as np
from headwater import Answer, Client, Document, DocumentState, SearchResult
from headwater.common.v1 import common_pb2
from headwater.embedding.v1 import embedding_pb2, embedding_pb2_grpc

from benchmarks.report import RESULTS, Row, Size
from deploy.local.stack import Stack
from services.embedding.settings import EmbeddingSettings
from serving.models import resolve_model
from tests.harness.processes import Processes, free_port_base

COLLECTION = "quality"
K = 10
CALLERS = 4
TIE = 1e-5
"""Scores this near are a tie: a question's vector moves by as much with the batch that it is embedded in."""

Matrix = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Question:
    """A question of the data, the answers it takes, and the document that holds them."""

    text: str
    golds: tuple[str, ...]
    document_id: str


@dataclass(frozen=True)
class Chunks:
    """What a shard stored, row by row."""

    document_ids: list[str]
    ordinals: list[int]
    texts: list[str]
    vectors: Matrix


def run(size: Size, data: Path) -> list[Row]:
    """All questions searched for; 200 (large: 1,000) of them, spread over the file, asked."""
    documents, questions = read(data)
    count = min(len(questions), 200 if size == "small" else 1000)
    asked = [questions[place * len(questions) // count] for place in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(state=Path(folder), port_base=free_port_base())
        with Processes(stack) as processes, Client(stack.address) as client:
            client.create_collection(COLLECTION)
            client.put(COLLECTION, documents)
            states = [
                status.state
                for status in client.watch(COLLECTION, [document.id for document in documents], timeout=600)
            ]
            if set(states) != {DocumentState.INDEXED}:
                raise SystemExit("not every paragraph was indexed")
            rows = retrieval(client, stack, questions)
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / "quality-answers.jsonl").unlink(missing_ok=True)
            rows += answers("default model", ask(client, asked), asked, goals=True)
            for name in ("generation", "gateway"):
                processes.kill(name)
                processes.start(name, HEADWATER_GENERATION__ENGINE="extractive")
            processes.wait_ready("generation", "gateway")
            rows += answers("extractive", ask(client, asked), asked, goals=False)
    return rows


def read(data: Path) -> tuple[list[Document], list[Question]]:
    """Every paragraph as a document, every question that has an answer."""
    documents: list[Document] = []
    questions: list[Question] = []
    for article in json.loads(data.read_text())["data"]:
        for paragraph in article["paragraphs"]:
            document = Document(f"paragraph-{len(documents):05}", text=paragraph["context"])
            documents.append(document)
            for asked in paragraph["qas"]:
                if asked["answers"]:
                    golds = tuple(answer["text"] for answer in asked["answers"])
                    questions.append(Question(asked["question"], golds, document.id))
    return documents, questions


def retrieval(client: Client, stack: Stack, questions: Sequence[Question]) -> list[Row]:
    """Search against brute force over the stored vectors, and against sentence-transformers over the same chunks."""
    texts = [question.text for question in questions]
    results = client.search_many(COLLECTION, texts, k=K)
    stored = chunks(stack.state / "retrieval-0" / "index.sqlite3")
    scores = embed(stack, texts) @ stored.vectors.T
    equal = [same(result, row, stored) for result, row in zip(results, scores, strict=True)]
    ours = [[hit.document_id for hit in result] for result in results]
    reference = by_sentence_transformers(stored, texts)
    rows = [Row(f"searches equal to brute force over the stored vectors, k={K}", float(np.mean(equal)), "of 1", ">= 1")]
    for depth in (1, 5):
        mine, theirs = recall(ours, questions, depth), recall(reference, questions, depth)
        rows += [
            Row(f"R@{depth}", mine, "of 1"),
            Row(f"R@{depth}, sentence-transformers fp32", theirs, "of 1"),
            Row(f"R@{depth}, difference", abs(mine - theirs), "", "<= 0.005"),
        ]
    return rows


def chunks(database: Path) -> Chunks:
    """Read a shard's file."""
    query = "SELECT document_id, ordinal, text, vector FROM chunks JOIN documents ON documents.id = chunks.document"
    with closing(apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        rows = connection.execute(query).fetchall()
    document_ids, ordinals, texts, vectors = map(list, zip(*rows, strict=True))
    return Chunks(document_ids, ordinals, texts, np.stack([np.frombuffer(vector, "<f4") for vector in vectors]))


def embed(stack: Stack, texts: Sequence[str]) -> Matrix:
    """The questions' vectors, as the gateway gets them."""
    rows: list[Matrix] = []
    with grpc.insecure_channel(f"127.0.0.1:{stack.port(11)}") as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        for start in range(0, len(texts), 64):
            request = embedding_pb2.EmbedRequest(
                texts=texts[start : start + 64],
                kind=embedding_pb2.TEXT_KIND_QUERY,
                priority=common_pb2.PRIORITY_INTERACTIVE,
            )
            vectors = stub.Embed(request, timeout=120).vectors
            rows.append(np.frombuffer(vectors.data, "<f4").reshape(vectors.count, vectors.dimensions))
    return np.concatenate(rows)


def same(result: SearchResult, scores: Matrix, stored: Chunks) -> bool:
    """Whether the hits are the best chunks, in order; chunks of a tie may stand in any."""
    place = {key: row for row, key in enumerate(zip(stored.document_ids, stored.ordinals, strict=True))}
    found = [place[hit.document_id, hit.chunk] for hit in result]
    best = np.sort(scores)[::-1][:K]
    return len(set(found)) == len(best) and bool(np.all(np.abs(scores[found] - best) <= TIE))


def by_sentence_transformers(stored: Chunks, texts: Sequence[str]) -> list[list[str]]:
    """Documents for each text, best first, by the same model in torch fp32."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(resolve_model(EmbeddingSettings().model)), device="cpu")
    rows, queries = (model.encode(list(part), normalize_embeddings=True) for part in (stored.texts, texts))
    order = np.argsort(-(queries @ rows.T), axis=1)[:, :K]
    return [[stored.document_ids[row] for row in best] for best in order]


def recall(found: Sequence[Sequence[str]], questions: Sequence[Question], depth: int) -> float:
    """The share of questions whose document is among the first `depth` documents."""
    hits = (
        question.document_id in list(dict.fromkeys(ids))[:depth] for ids, question in zip(found, questions, strict=True)
    )
    return float(np.mean(list(hits)))


def ask(client: Client, questions: Sequence[Question]) -> list[Answer]:
    """An answer each."""
    with ThreadPoolExecutor(CALLERS) as pool:
        return list(pool.map(lambda question: client.answer(COLLECTION, question.text, timeout=300), questions))


def answers(engine: str, given: Sequence[Answer], questions: Sequence[Question], *, goals: bool) -> list[Row]:
    """How many hold what they should, and whether any holds what it should not."""
    alone, quoted, absent, degraded = [], [], [], []
    with (RESULTS / "quality-answers.jsonl").open("a") as out:
        for answer, question in zip(given, questions, strict=True):
            evidence = [*(one.text for one in answer.evidence), *(citation.evidence for citation in answer.citations)]
            missing = unfounded(answer.text, [passage.hit.text for passage in answer.passages])
            alone.append(holds_any(answer.text, question.golds))
            quoted.append(alone[-1] or holds_any("\n".join(evidence), question.golds))
            absent.append(bool(missing))
            degraded.append(bool(answer.degradations))
            line = {"engine": engine, "question": question.text, "golds": question.golds, "answer": answer.text}
            line |= {"evidence": evidence, "degraded": [one.kind for one in answer.degradations], "absent": missing}
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
    return [
        Row(f"{engine}: gold in the answer or its evidence", float(np.mean(quoted)), "of 1", ">= 0.8" if goals else ""),
        Row(f"{engine}: gold in the answer", float(np.mean(alone)), "of 1", ">= 0.45" if goals else ""),
        Row(f"{engine}: answers with a number or name their passages lack", sum(absent), "", "<= 0"),
        Row(f"{engine}: answers that something was withheld from", float(np.mean(degraded)), "of 1"),
    ]


def holds_any(text: str, golds: Sequence[str]) -> bool:
    """Whether one of the golds stands in the text, in any case."""
    folded = " ".join(text.casefold().split())
    return any(" ".join(gold.casefold().split()) in folded for gold in golds)


_MARK = re.compile(r"\s*\[\d+\]")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
# a word with a capital that no sentence begins with
_NAME = re.compile(r"(?<=[\w,;] )[A-Z][\w'\u2019-]*")
_WORD = re.compile(r"\w+")


def unfounded(answer: str, passages: Sequence[str]) -> list[str]:
    """The numbers, and the capitalised words within sentences, that no passage has. It shares no code with the support
    check that it judges."""
    said, given = _MARK.sub("", answer), "\n".join(passages)
    numbers = {number.replace(",", "") for number in _NUMBER.findall(given)}
    words = {word.casefold() for word in _WORD.findall(given)}
    absent = [number for number in _NUMBER.findall(said) if number.replace(",", "") not in numbers]
    parts = (part for name in _NAME.findall(said) for part in _WORD.findall(name) if part[0].isupper())
    return absent + [part for part in parts if part.casefold() not in words]
