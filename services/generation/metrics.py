"""Every metric of the generation service; those that OpenTelemetry's GenAI conventions name carry its names."""

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600)

QUEUED_REQUESTS = Gauge("headwater_generation_queued_requests", "Requests that wait for the engine.")
QUEUED_TOKENS = Gauge("headwater_generation_queued_tokens", "Prompt and expected output tokens of waiting requests.")
RUNNING_REQUESTS = Gauge("headwater_generation_running_requests", "Requests in the engine.")
QUEUE_SECONDS = Histogram(
    "headwater_generation_queue_seconds",
    "Time between a request's arrival and its start in the engine.",
    buckets=_SECONDS,
)
REFUSED = Counter("headwater_generation_refused", "Requests refused, by reason.", ["reason"])
CANCELLED = Counter(
    "headwater_generation_cancelled",
    "Requests that ended early: given up by their caller, or at their deadline.",
    ["reason"],
)
TIME_TO_FIRST_TOKEN = Histogram(
    "gen_ai_server_time_to_first_token_seconds",
    "Time between a request's arrival and its first token.",
    buckets=_SECONDS,
)
TIME_PER_OUTPUT_TOKEN = Histogram(
    "gen_ai_server_time_per_output_token_seconds",
    "Time a token of output took after the first.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5),
)
REQUEST_SECONDS = Histogram(
    "gen_ai_server_request_duration_seconds", "Time between a request's arrival and its end.", buckets=_SECONDS
)
TOKENS = Counter("gen_ai_server_token_usage", "Tokens of finished requests.", ["gen_ai_token_type"])
