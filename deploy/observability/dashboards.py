"""`python -m deploy.observability.dashboards`: Grafana's dashboards, written to dashboards/*.json; `--check` compares.

A dashboard is rows of panels, a panel is queries. What each is for stands in its description, for whoever is on call.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent / "dashboards"
WIDTH, HEIGHT = 24, 8
GATEWAY: Final = 'grpc_service="headwater.gateway.v1.GatewayService"'


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph. `queries` are (PromQL, legend); `unit` is Grafana's name of it."""

    title: str
    description: str
    unit: str
    queries: Sequence[tuple[str, str]]
    stacked: bool = False


@dataclass(frozen=True, slots=True)
class Dashboard:
    """Rows, each a title and its panels, side by side."""

    name: str
    title: str
    rows: Sequence[tuple[str, Sequence[Panel]]]

    def json(self) -> str:
        """As Grafana imports it."""
        return json.dumps(
            {
                "uid": f"headwater-{self.name}",
                "title": self.title,
                "tags": ["headwater"],
                "schemaVersion": 39,
                "editable": False,
                "refresh": "30s",
                "time": {"from": "now-1h", "to": "now"},
                "templating": {"list": [_DATASOURCE]},
                "links": [{"type": "dashboards", "tags": ["headwater"], "title": "Headwater", "asDropdown": True}],
                "panels": list(_laid_out(self.rows)),
            },
            indent=1,
        )


_DATASOURCE: Final = {
    "name": "datasource",
    "label": "Prometheus",
    "type": "datasource",
    "query": "prometheus",
    "current": {},
}


def _laid_out(rows: Sequence[tuple[str, Sequence[Panel]]]) -> Iterable[dict[str, Any]]:
    number, y = 0, 0
    for title, panels in rows:
        number += 1
        yield {"id": number, "type": "row", "title": title, "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1}}
        y += 1
        width = WIDTH // len(panels)
        for place, panel in enumerate(panels):
            number += 1
            yield _panel(panel, number, {"x": place * width, "y": y, "w": width, "h": HEIGHT})
        y += HEIGHT


def _panel(panel: Panel, number: int, position: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    stacking = {"stacking": {"mode": "normal"}, "fillOpacity": 30} if panel.stacked else {"fillOpacity": 5}
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": source,
        "gridPos": position,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": stacking}, "overrides": []},
        "options": {"tooltip": {"mode": "multi", "sort": "desc"}, "legend": {"displayMode": "list"}},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": source, "expr": expression, "legendFormat": legend}
            for place, (expression, legend) in enumerate(panel.queries)
        ],
    }


def rate(counter: str, by: str, labels: str = "") -> str:
    """A counter's rate a second."""
    return f"sum by ({by}) (rate({counter}{{{labels}}}[$__rate_interval]))"


def quantiles(histogram: str, labels: str = "") -> Sequence[tuple[str, str]]:
    """The median, the 95th and the 99th percentile of a histogram."""
    buckets = f"sum by (le) (rate({histogram}_bucket{{{labels}}}[$__rate_interval]))"
    return [(f"histogram_quantile({share}, {buckets})", f"p{share * 100:.0f}") for share in (0.5, 0.95, 0.99)]


def quantile_by(histogram: str, by: str, labels: str = "") -> tuple[str, str]:
    """The 95th percentile of a histogram by a label."""
    buckets = f"sum by (le, {by}) (rate({histogram}_bucket{{{labels}}}[$__rate_interval]))"
    return (f"histogram_quantile(0.95, {buckets})", f"{{{{{by}}}}} p95")


def mean_by(histogram: str, by: str) -> tuple[str, str]:
    """The mean of a histogram by a label."""
    return (f"{rate(f'{histogram}_sum', by)} / {rate(f'{histogram}_count', by)}", f"{{{{{by}}}}}")


def handled(labels: str) -> tuple[str, str]:
    """The rate of calls by method and status."""
    return (rate("grpc_server_handled_total", "grpc_method, grpc_code", labels), "{{grpc_method}} {{grpc_code}}")


def calls(service: str) -> tuple[str, Sequence[Panel]]:
    """The row that every service has: its calls, and its processes."""
    labels = f'grpc_service="{service}"'
    component = service.split(".")[1]
    return (
        "Calls and processes",
        [
            Panel(
                "Calls by status",
                "OK apart from the rest. INVALID_ARGUMENT and the like are the callers'; UNAVAILABLE, INTERNAL and "
                "DEADLINE_EXCEEDED are ours.",
                "reqps",
                [handled(labels)],
            ),
            Panel(
                "Time of a call, p95",
                "From a call's beginning to its end, by method; streams last as long as their callers want.",
                "s",
                [quantile_by("grpc_server_handling_seconds", "grpc_method", labels)],
            ),
            Panel(
                "Processor",
                "Cores in use by each process: near its limit, add replicas.",
                "none",
                [(f'rate(process_cpu_seconds_total{{component=~"{component}.*"}}[$__rate_interval])', "{{instance}}")],
            ),
            Panel(
                "Memory",
                "Resident memory of each process; child processes (parsers, the model) are not in it.",
                "bytes",
                [(f'process_resident_memory_bytes{{component=~"{component}.*"}}', "{{instance}}")],
            ),
        ],
    )


QUESTION = Dashboard(
    "question-path",
    "Headwater: the path of a question",
    [
        (
            "What callers see",
            [
                Panel(
                    "Questions and searches",
                    "How many come, by how they ended. RESOURCE_EXHAUSTED is a refusal: see below for why.",
                    "reqps",
                    [
                        handled(f'{GATEWAY}, grpc_method=~"Ask|Search"'),
                        (rate("headwater_gateway_asks_failed_total", "code"), "Ask failed in its stream: {{code}}"),
                    ],
                ),
                Panel(
                    "Time of an answer",
                    "From the question's arrival at the gateway to the answer's last word.",
                    "s",
                    quantiles("grpc_server_handling_seconds", f'{GATEWAY}, grpc_method="Ask"'),
                ),
                Panel(
                    "Time of a search",
                    "Embedding the query, and all shards at once.",
                    "s",
                    quantiles("grpc_server_handling_seconds", f'{GATEWAY}, grpc_method="Search"'),
                ),
            ],
        ),
        (
            "Less than it should be",
            [
                Panel(
                    "Degradations",
                    "Answers that lack something, by what. PARTIAL_COVERAGE: a shard is away. GENERATION_UNAVAILABLE: "
                    "quotations instead of the model's words.",
                    "reqps",
                    [(rate("headwater_gateway_degradations_total", "kind"), "{{kind}}")],
                ),
                Panel(
                    "Refusals",
                    "generation and asks: no room. rate and the other quotas: a tenant wants more than it may.",
                    "reqps",
                    [
                        (rate("headwater_gateway_refused_total", "quota"), "gateway: {{quota}}"),
                        (rate("headwater_generation_refused_total", "reason"), "generation: {{reason}}"),
                    ],
                ),
                Panel(
                    "Shards that did not answer",
                    "By the number of the shard. Anything but nothing means incomplete answers.",
                    "reqps",
                    [(rate("headwater_gateway_shard_failures_total", "shard"), "shard {{shard}}")],
                ),
            ],
        ),
        (
            "Where the time goes",
            [
                Panel(
                    "Stages, mean",
                    "The gateway's view of an answer. The stage that grows is the service to look at.",
                    "s",
                    [mean_by("headwater_gateway_stage_seconds", "stage")],
                    stacked=True,
                ),
                Panel(
                    "Waiting, p95",
                    "Time in queues, apart from work: what grows here wants more replicas, not faster ones.",
                    "s",
                    [
                        quantile_by("headwater_embedding_queue_seconds", "lane"),
                        (quantiles("headwater_retrieval_queue_seconds")[1][0], "retrieval p95"),
                        (quantiles("headwater_retrieval_token_wait_seconds")[1][0], "write token p95"),
                        (quantiles("headwater_generation_queue_seconds")[1][0], "generation p95"),
                    ],
                ),
                Panel(
                    "Working, p95",
                    "One inference, one search, the first token, all tokens.",
                    "s",
                    [
                        (quantiles("headwater_embedding_batch_seconds")[1][0], "embedding a batch p95"),
                        (quantiles("headwater_retrieval_search_seconds")[1][0], "searching a shard p95"),
                        (quantiles("gen_ai_server_time_to_first_token_seconds")[1][0], "first token p95"),
                        (quantiles("gen_ai_server_request_duration_seconds")[1][0], "generation p95"),
                    ],
                ),
            ],
        ),
        (
            "The cache",
            [
                Panel(
                    "Answers by where they came from",
                    "HIT: cached. SHARED: another caller asked the same just then. BYPASSED: not for the cache.",
                    "reqps",
                    [(rate("headwater_gateway_asks_total", "cache"), "{{cache}}")],
                    stacked=True,
                ),
                Panel(
                    "Questions being worked out",
                    "At once, in all gateways, and those that wait in generation.",
                    "none",
                    [
                        ("sum(headwater_gateway_asks_in_progress)", "in the gateways"),
                        ("sum(headwater_generation_running_requests)", "in the engine"),
                        ("sum(headwater_generation_queued_requests)", "waiting for the engine"),
                    ],
                ),
            ],
        ),
    ],
)

DOCUMENT = Dashboard(
    "document-path",
    "Headwater: the path of a document",
    [
        (
            "Taken in",
            [
                Panel(
                    "Writes",
                    "unknown: the log did not say in time whether it has the write.",
                    "reqps",
                    [(rate("headwater_gateway_writes_total", "outcome"), "{{outcome}}")],
                ),
                Panel(
                    "Documents done",
                    "By what became of them; unchanged ones cost nothing.",
                    "reqps",
                    [(rate("headwater_ingestion_documents_total", "outcome"), "{{outcome}}")],
                ),
                Panel(
                    "Rejections",
                    "By reason; ListDocuments with state REJECTED names the documents.",
                    "reqps",
                    [(rate("headwater_ingestion_rejections_total", "reason"), "{{reason}}")],
                ),
            ],
        ),
        (
            "From the log to the index",
            [
                Panel(
                    "Acknowledged to indexed",
                    "How old a write is when its index record is appended.",
                    "s",
                    quantiles("headwater_ingestion_indexed_seconds"),
                ),
                Panel(
                    "Documents that wait",
                    "By partition. All growing: too few workers or slow embedding. One growing: one partition has more "
                    "than its share, or no owner.",
                    "none",
                    [("sum by (partition) (headwater_ingestion_lag_records)", "partition {{partition}}")],
                    stacked=True,
                ),
                Panel(
                    "Partitions with an owner",
                    "Below the number of partitions for longer than a take-over: documents of the others wait.",
                    "none",
                    [
                        ("count(count by (partition) (headwater_ingestion_lag_records))", "worked on"),
                        ("count(count by (partition) (headwater_cache_index_offset))", "there are"),
                    ],
                ),
            ],
        ),
        (
            "Work on a document, p95",
            [
                Panel(
                    "Parsing and splitting",
                    "By content type, waiting for a free parser included.",
                    "s",
                    [quantile_by("headwater_ingestion_parse_seconds", "content_type")],
                ),
                Panel(
                    "Embedding and appending",
                    "Embedding includes waiting in the embedding service, and retries.",
                    "s",
                    [
                        (quantiles("headwater_ingestion_embed_seconds")[1][0], "embed p95"),
                        (quantiles("headwater_ingestion_append_seconds")[1][0], "append p95"),
                    ],
                ),
                Panel(
                    "Tried again",
                    "Calls of workers that failed and are repeated, by reason: documents wait, none is skipped.",
                    "reqps",
                    [(rate("headwater_ingestion_dependency_retries_total", "reason"), "{{reason}}")],
                ),
            ],
        ),
        (
            "From the index log to searches",
            [
                Panel(
                    "Shards behind the log",
                    "Records not yet applied, by shard.",
                    "none",
                    [("sum by (component, instance) (headwater_retrieval_lag_records)", "{{component}} {{instance}}")],
                ),
                Panel(
                    "Shards ready",
                    "1 while a shard answers.",
                    "none",
                    [("headwater_retrieval_ready", "{{component}} {{instance}}")],
                ),
                Panel(
                    "Free disk under a shard",
                    "As a share of its file system; an alert at a tenth.",
                    "percentunit",
                    [
                        (
                            "headwater_retrieval_state_free_bytes / headwater_retrieval_state_size_bytes",
                            "{{component}} {{instance}}",
                        )
                    ],
                ),
            ],
        ),
    ],
)

SERVICES = [
    Dashboard(
        "gateway",
        "Headwater: gateway",
        [
            calls("headwater.gateway.v1.GatewayService"),
            (
                "Answers",
                [
                    Panel(
                        "Stages, p95",
                        "What the gateway waits for, by stage.",
                        "s",
                        [quantile_by("headwater_gateway_stage_seconds", "stage")],
                    ),
                    Panel(
                        "Questions in progress",
                        "Of each gateway; max_concurrent_asks bounds it.",
                        "none",
                        [("headwater_gateway_asks_in_progress", "{{instance}}")],
                    ),
                    Panel(
                        "Refused",
                        "By the quota that was used up.",
                        "reqps",
                        [(rate("headwater_gateway_refused_total", "quota"), "{{quota}}")],
                    ),
                ],
            ),
        ],
    ),
    Dashboard(
        "ingestion",
        "Headwater: ingestion",
        [
            calls("headwater.ingestion.v1.IngestionService"),
            (
                "Workers",
                [
                    Panel(
                        "Documents done by each worker",
                        "A worker without partitions has nothing to do.",
                        "reqps",
                        [(rate("headwater_ingestion_documents_total", "instance"), "{{instance}}")],
                    ),
                    Panel(
                        "Chunks embedded",
                        "And those that the model's window cut, which should be none.",
                        "reqps",
                        [
                            (rate("headwater_ingestion_chunks_total", "component"), "embedded"),
                            (rate("headwater_ingestion_truncated_chunks_total", "component"), "cut off"),
                        ],
                    ),
                    Panel(
                        "Partitions taken over",
                        "By what ended the time before: more than a deployment explains means workers that are fenced "
                        "or end.",
                        "ops",
                        [
                            (
                                "sum by (after) (rate(headwater_ingestion_take_overs_total{}[$__rate_interval]))",
                                "{{after}}",
                            )
                        ],
                    ),
                    Panel(
                        "Writes at the API",
                        "By what became of them.",
                        "reqps",
                        [(rate("headwater_ingestion_writes_total", "outcome"), "{{outcome}}")],
                    ),
                ],
            ),
        ],
    ),
    Dashboard(
        "embedding",
        "Headwater: embedding",
        [
            calls("headwater.embedding.v1.EmbeddingService"),
            (
                "Queue and batches",
                [
                    Panel(
                        "Tokens that wait",
                        "Questions go before documents.",
                        "none",
                        [("sum by (lane) (headwater_embedding_queued_tokens)", "{{lane}}")],
                    ),
                    Panel(
                        "Waiting, p95",
                        "By lane. Questions that wait: add replicas.",
                        "s",
                        [quantile_by("headwater_embedding_queue_seconds", "lane")],
                    ),
                    Panel(
                        "Tokens of a batch",
                        "Small batches under load waste the processor.",
                        "none",
                        quantiles("headwater_embedding_batch_tokens"),
                    ),
                    Panel(
                        "Texts",
                        "By what became of them, and by replica: unlike rates mean that callers do not see a new one.",
                        "reqps",
                        [
                            (rate("headwater_embedding_texts_total", "outcome"), "{{outcome}}"),
                            (rate("headwater_embedding_texts_total", "instance", 'outcome="embedded"'), "{{instance}}"),
                        ],
                    ),
                ],
            ),
        ],
    ),
    Dashboard(
        "retrieval",
        "Headwater: retrieval",
        [
            calls("headwater.retrieval.v1.RetrievalService"),
            (
                "Searching",
                [
                    Panel(
                        "Queries",
                        "Searched, by shard and replica.",
                        "reqps",
                        [
                            (
                                rate("headwater_retrieval_queries_total", "component, instance"),
                                "{{component}} {{instance}}",
                            )
                        ],
                    ),
                    Panel(
                        "Searching and waiting, p95",
                        "One search of gathered queries; waiting for it; waiting for a write token.",
                        "s",
                        [
                            (quantiles("headwater_retrieval_search_seconds")[1][0], "search p95"),
                            (quantiles("headwater_retrieval_queue_seconds")[1][0], "queue p95"),
                            (quantiles("headwater_retrieval_token_wait_seconds")[1][0], "write token p95"),
                        ],
                    ),
                    Panel(
                        "Queries searched together",
                        "More under load; a queue of more than a batch means another replica is due.",
                        "none",
                        [
                            *quantiles("headwater_retrieval_batch_queries"),
                            ("sum by (instance) (headwater_retrieval_queued_queries)", "queued {{instance}}"),
                        ],
                    ),
                ],
            ),
            (
                "Following the log",
                [
                    Panel(
                        "Records applied",
                        "And batches that could not be written and are tried again (a full disk).",
                        "reqps",
                        [
                            (rate("headwater_retrieval_records_applied_total", "instance"), "applied {{instance}}"),
                            (rate("headwater_retrieval_apply_failures_total", "instance"), "failed {{instance}}"),
                        ],
                    ),
                    Panel(
                        "Rebuilds",
                        "Since the process started, by reason; searches made twice because a chunk was replaced "
                        "meanwhile.",
                        "none",
                        [
                            ("headwater_retrieval_rebuilds_total", "{{reason}} {{instance}}"),
                            ("headwater_retrieval_searched_again_total", "searched again {{instance}}"),
                        ],
                    ),
                ],
            ),
        ],
    ),
    Dashboard(
        "generation",
        "Headwater: generation",
        [
            calls("headwater.generation.v1.GenerationService"),
            (
                "Tokens",
                [
                    Panel(
                        "Tokens a second",
                        "Read (input) and written (output), of finished requests.",
                        "none",
                        [(rate("gen_ai_server_token_usage_total", "gen_ai_token_type"), "{{gen_ai_token_type}}")],
                    ),
                    Panel(
                        "Time to the first token",
                        "From a request's arrival, its time in the queue included.",
                        "s",
                        quantiles("gen_ai_server_time_to_first_token_seconds"),
                    ),
                    Panel(
                        "Time of each token after the first",
                        "Grows with the requests that share the engine.",
                        "s",
                        quantiles("gen_ai_server_time_per_output_token_seconds"),
                    ),
                ],
            ),
            (
                "Queue",
                [
                    Panel(
                        "Requests",
                        "In the engine, and before it.",
                        "none",
                        [
                            ("sum(headwater_generation_running_requests)", "running"),
                            ("sum(headwater_generation_queued_requests)", "queued"),
                        ],
                    ),
                    Panel("Waiting", "Before the engine.", "s", quantiles("headwater_generation_queue_seconds")),
                    Panel(
                        "Tokens that wait",
                        "Prompts and expected output of what is queued.",
                        "none",
                        [("sum(headwater_generation_queued_tokens)", "tokens")],
                    ),
                    Panel(
                        "Refused and ended early",
                        "Refused before any work; ended by the caller or at the deadline.",
                        "reqps",
                        [
                            (rate("headwater_generation_refused_total", "reason"), "refused: {{reason}}"),
                            (rate("headwater_generation_cancelled_total", "reason"), "ended by {{reason}}"),
                        ],
                    ),
                ],
            ),
        ],
    ),
    Dashboard(
        "cache",
        "Headwater: cache",
        [
            calls("headwater.cache.v1.CacheService"),
            (
                "Answers",
                [
                    Panel(
                        "Lookups",
                        "hit and hit_waited, or why not. behind: the cache has not yet followed the log far enough.",
                        "reqps",
                        [(rate("headwater_cache_lookups_total", "outcome"), "{{outcome}}")],
                    ),
                    Panel(
                        "Stored and dropped",
                        "An answer is dropped as soon as its collection changes.",
                        "reqps",
                        [
                            (rate("headwater_cache_stores_total", "outcome"), "{{outcome}}"),
                            (rate("headwater_cache_invalidations_total", "component"), "dropped"),
                        ],
                    ),
                    Panel(
                        "Held",
                        "Entries that may be served, and callers that wait for another's answer.",
                        "none",
                        [
                            ("headwater_cache_entries", "entries {{instance}}"),
                            ("headwater_cache_waiters", "waiters {{instance}}"),
                        ],
                    ),
                    Panel(
                        "Behind the log",
                        "Records not yet followed; and times that the log turned out to be another.",
                        "none",
                        [
                            ("sum by (instance) (headwater_cache_index_lag_records)", "records {{instance}}"),
                            ("headwater_cache_log_replacements_total", "log replaced {{instance}}"),
                        ],
                    ),
                ],
            ),
        ],
    ),
]

DASHBOARDS: Final = [QUESTION, DOCUMENT, *SERVICES]


def main(arguments: Sequence[str]) -> int:
    wanted = {FOLDER / f"{one.name}.json": one.json() + "\n" for one in DASHBOARDS}
    if "--check" in arguments:
        there = {path: path.read_text() for path in FOLDER.glob("*.json")}
        if there != wanted:
            print(f"{FOLDER.name}/ is not what dashboards.py makes: run `make docs`", file=sys.stderr)
            return 1
        print("dashboards are current")
        return 0
    FOLDER.mkdir(exist_ok=True)
    for path, text in wanted.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
