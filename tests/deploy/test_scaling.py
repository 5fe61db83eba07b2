"""Each service scaled on its own, on a real cluster under real load; what was seen is kept, for plots.

Needs what tests/deploy/test_kubernetes.py needs; the cluster also has KEDA (workers) and a metrics server (embedding).
`python -m benchmarks.scaling` draws what these tests leave in benchmarks/results/scaling.
"""

from __future__ import annotations

import csv
import itertools
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from headwater import Client, CollectionSettings, Document, HeadwaterError

from benchmarks.report import RESULTS
from benchmarks.texts import texts
from deploy.local.stack import ROOT
from tests.harness.kubernetes import ADDRESS, Release

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(1800)]

OPEN = ("gateway.auth=none", "gateway.replicas=1", "cache.replicas=1", "ingestionApi.replicas=1")
EVERY_SECONDS = 2.0
SHARE_SECONDS = 60.0
FAIR = 0.3
"""Of its fair share, which a new replica takes within SHARE_SECONDS of being ready."""


@dataclass
class Watch:
    """Samples of a component's pods until `stop`: how much each has done, by name, and one more figure."""

    release: Release
    component: str
    metric: str
    """The start of the lines of the metrics page that are added up."""
    figure: Callable[[Mapping[str, str]], float]
    """Of all pages, by pod."""
    began: float = field(default_factory=time.monotonic)
    rows: list[tuple[float, float, dict[str, float]]] = field(default_factory=list)
    """Seconds, the figure, what each ready pod has done since it started."""

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(EVERY_SECONDS):
            pages = {pod: self._page(pod) for pod in self.release.pods(self.component)}
            there = {pod: page for pod, page in pages.items() if page}
            done = {pod: total(page, self.metric) for pod, page in there.items()}
            self.rows.append((time.monotonic() - self.began, self.figure(there), done))

    def _page(self, pod: str) -> str:
        path = f"/api/v1/namespaces/{self.release.namespace}/pods/{pod}:9464/proxy/metrics"
        return self.release.kubectl("get", "--raw", path, check=False)

    @property
    def replicas(self) -> int:
        """Pods that gave a page at the last sample."""
        return len(self.rows[-1][2]) if self.rows else 0

    def until(self, holds: Callable[[], bool], what: str, timeout_seconds: float) -> None:
        """Wait for it."""
        deadline = time.monotonic() + timeout_seconds
        while not holds():
            assert time.monotonic() < deadline, f"{what}: {self.rows[-3:]}"
            time.sleep(EVERY_SECONDS)

    def shares(self) -> dict[str, float]:
        """For each pod that came later: what it did in its first SHARE_SECONDS, over an equal share of what all did."""
        found = {}
        first = set(self.rows[0][2])
        for pod in sorted(set().union(*(done for _, _, done in self.rows)) - first):
            its = [row for row in self.rows if pod in row[2]]
            window = [row for row in its if row[0] <= its[0][0] + SHARE_SECONDS]
            start, end = window[0][2], window[-1][2]
            did = {name: end[name] - start.get(name, 0.0) for name in end}
            if sum(did.values()):
                found[pod] = did[pod] / (sum(did.values()) / len(did))
        return found

    def keep(self, name: str, figure: str) -> None:
        """Write the samples down: seconds, replicas, the figure, and what each pod did a second."""
        folder = RESULTS / "scaling"
        folder.mkdir(parents=True, exist_ok=True)
        pods = sorted(set().union(*(done for _, _, done in self.rows)))
        with (folder / f"{name}.csv").open("w", newline="") as out:
            table = csv.writer(out)
            table.writerow(["seconds", "replicas", figure, *pods])
            for before, now in itertools.pairwise(self.rows):
                seconds = now[0] - before[0]
                did = {pod: (count - before[2].get(pod, 0.0)) / seconds for pod, count in now[2].items()}
                rates = [round(did[pod], 2) if pod in did else "" for pod in pods]
                table.writerow([round(now[0], 1), len(now[2]), round(now[1], 2), *rates])


def total(page: str, metric: str) -> float:
    """The sum of a metrics page's lines that begin so."""
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(metric))


@contextmanager
def installed(name: str, *values: str) -> Iterator[Release]:
    with Release(f"headwater-{name}", (*OPEN, *values)) as release:
        yield release


def test_workers_follow_the_backlog_and_go_again() -> None:
    """1 to 3 by KEDA on what Kafka says waits. Each has a part of a core, or one worker would use the whole machine."""
    values = (
        "embedding.engine=fake",
        "ingestionWorker.keda.enabled=true",
        "ingestionWorker.keda.maxReplicas=3",
        "ingestionWorker.keda.lagThreshold=50",
        "ingestionWorker.keda.pollingSeconds=5",
        "ingestionWorker.keda.cooldownSeconds=30",
        "ingestionWorker.resources.limits.cpu=150m",
    )
    with installed("workers", *values) as release, Client(ADDRESS) as client:
        client.create_collection("backlog", settings=CollectionSettings(spread=16))
        done = "headwater_ingestion_documents_total"
        lag = "headwater_ingestion_lag_records"
        with Watch(release, "ingestion-worker", done, lambda pages: total("\n".join(pages.values()), lag)) as watch:
            watch.until(lambda: watch.replicas == 1, "one worker", 60)
            documents = [Document(f"d{number}", text=text) for number, text in enumerate(texts(6000, 60, seed=4))]
            for start in range(0, len(documents), 200):
                client.put("backlog", documents[start : start + 200], timeout=120)
            watch.until(lambda: watch.replicas == 3, "three workers", 300)
            watch.until(lambda: watch.rows[-1][1] == 0, "all documents done", 900)
            watch.until(lambda: watch.replicas == 1, "one worker again", 300)
        watch.keep("workers", "documents waiting")
        found = client.get_collection("backlog", timeout=60)
        assert found.documents == len(documents)
    print("shares of new workers:", watch.shares())
    assert all(share >= FAIR for share in watch.shares().values())


def test_embedding_follows_the_load() -> None:
    """1 to 3 by a HorizontalPodAutoscaler on the processor, under searches that arrive at a steady rate."""
    values = (
        "embedding.autoscaling.enabled=true",
        "embedding.autoscaling.maxReplicas=3",
        "embedding.resources.requests.cpu=150m",
        "embedding.resources.limits.cpu=300m",
    )
    # hardly any text comes twice: the gateway remembers their vectors
    load = "--mix search=1 --rate 50 --seconds 300 --no-cache --zipf 0 --question-count 100000 --document-count 50"
    with installed("embedding", *values) as release:
        texts_done = 'headwater_embedding_texts_total{outcome="embedded"}'
        queued = "headwater_embedding_queued_tokens"
        with (
            Watch(release, "embedding", texts_done, lambda pages: total("\n".join(pages.values()), queued)) as watch,
            subprocess.Popen(
                [sys.executable, "-m", "loadtests", "--address", ADDRESS, *load.split(), "--json"],
                cwd=ROOT,
                stdout=subprocess.PIPE,
            ) as process,
        ):
            watch.until(lambda: watch.replicas == 3, "three replicas", 290)
            said, _ = process.communicate(timeout=400)
            assert process.returncode == 0
        watch.keep("embedding", "tokens waiting")
    counts = json.loads(said)["counts"]
    print("searches:", counts)
    print("shares of new replicas:", watch.shares())
    assert counts["failed"] == 0
    assert watch.shares()
    assert all(share >= FAIR for share in watch.shares().values())


def test_shards_from_one_to_two_without_a_wrong_answer() -> None:
    """Searches of every document while the chart is upgraded: each is whole, says what it lacks, or fails."""
    with installed("shards") as release, Client(ADDRESS) as client:
        client.create_collection("fixed", settings=CollectionSettings(spread=16))
        client.put("fixed", [Document(f"d{number}", text=f"Fact number{number}.") for number in range(300)])
        whole = client.search("fixed", "fact", k=1000, timeout=120)
        assert len(whole) == 300
        expected = {hit.document_id: hit.text for hit in whole}
        outcomes: list[tuple[float, str]] = []
        stop = threading.Event()
        began = time.monotonic()

        def ask() -> None:
            with Client(ADDRESS, retries=0) as other:
                while not stop.wait(0.1):
                    outcomes.append((time.monotonic() - began, judged(other, expected)))

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            time.sleep(10)
            release.helm("upgrade", "retrieval.shards=2")
            release.wait_until_rolled_out()
            deadline = time.monotonic() + 120
            while [what for _, what in outcomes[-50:]] != ["whole"] * 50:
                assert time.monotonic() < deadline, Counter(what for _, what in outcomes[-50:])
                time.sleep(1)
        finally:
            stop.set()
            asking.join()
        keep_outcomes("shards", outcomes)
        print("searches while shards went from 1 to 2:", dict(Counter(what for _, what in outcomes)))
        assert "wrong" not in {what for _, what in outcomes}
        assert release.pods("retrieval-0")
        assert release.pods("retrieval-1")


def judged(client: Client, expected: Mapping[str, str]) -> str:
    """One search of everything: whole, partial (and it says so), failed, or wrong."""
    try:
        found = client.search("fixed", "fact", k=1000, after=None, timeout=10)
    except HeadwaterError:
        return "failed"
    texts_found = {hit.document_id: hit.text for hit in found}
    # none twice, none of another text, and all of them unless it says what is missing
    right = len(texts_found) == len(found) and texts_found.items() <= expected.items()
    if not right or (found.coverage.complete and len(found) < len(expected)):
        return "wrong"
    return "whole" if found.coverage.complete else "partial"


def keep_outcomes(name: str, outcomes: Sequence[tuple[float, str]]) -> None:
    """Write down how many searches ended how, second by second."""
    folder = RESULTS / "scaling"
    folder.mkdir(parents=True, exist_ok=True)
    kinds = ("whole", "partial", "failed", "wrong")
    with (folder / f"{name}.csv").open("w", newline="") as out:
        table = csv.writer(out)
        table.writerow(["seconds", *kinds])
        for second in range(int(outcomes[-1][0]) + 1):
            counts = Counter(what for at, what in outcomes if int(at) == second)
            table.writerow([second, *(counts[kind] for kind in kinds)])
