"""The generation service over the raw pipeline that it runs: eight distinct prompts at once, equal token counts."""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import grpc
import openvino_genai
from headwater.common.v1 import common_pb2
from headwater.generation.v1 import generation_pb2, generation_pb2_grpc

from benchmarks.report import Row, Size, median_of_pairs
from benchmarks.texts import texts
from deploy.local.stack import Stack
from services.generation.gguf_files import inspect, rewrite_once
from services.generation.settings import GenerationSettings
from serving.models import resolve_model
from tests.harness.processes import Processes, free_port_base

AT_ONCE, MAX_TOKENS, WORDS = 8, 64, 300
SYSTEM = "You repeat the text you are given, word for word."


def raw_pipeline(settings: GenerationSettings) -> openvino_genai.ContinuousBatchingPipeline:
    """The same model file, scheduling and precision as the service's."""
    source = resolve_model(settings.openvino.model)
    path = source if inspect(source).loads_exactly else rewrite_once(source, settings.openvino.models_folder, print)
    scheduling = openvino_genai.SchedulerConfig()
    scheduling.num_kv_blocks = settings.openvino.cache_tokens // 32
    scheduling.max_num_batched_tokens = settings.openvino.prefill_tokens
    scheduling.max_num_seqs = settings.scheduling.max_running_requests
    scheduling.enable_prefix_caching = settings.openvino.prefix_cache
    properties = {"INFERENCE_PRECISION_HINT": "bf16" if "avx512_bf16" in Path("/proc/cpuinfo").read_text() else "f32"}
    return openvino_genai.ContinuousBatchingPipeline(str(path), scheduling, "CPU", properties)


def run(size: Size) -> list[Row]:
    """Generated tokens a second, greedy, prompts of about 400 tokens; both sides get the same ones, cold."""
    runs = 3 if size == "small" else 15
    settings = GenerationSettings()
    said: dict[str, int] = {}  # tokens that the service generated, by prompt; the pipeline is to make as many
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(state=Path(folder), port_base=free_port_base())
        with Processes(stack, only=("generation",)), grpc.insecure_channel(f"127.0.0.1:{stack.port(31)}") as channel:
            stub = generation_pb2_grpc.GenerationServiceStub(channel)
            pipeline = raw_pipeline(settings)
            tokenizer = pipeline.get_tokenizer()

            def one(text: str) -> int:
                request = generation_pb2.GenerateRequest(
                    scope=common_pb2.Scope(tenant="bench"),
                    messages=[
                        generation_pb2.Message(role=generation_pb2.ROLE_SYSTEM, text=SYSTEM),
                        generation_pb2.Message(role=generation_pb2.ROLE_USER, text=text),
                    ],
                    sampling=generation_pb2.Sampling(max_tokens=MAX_TOKENS),
                    priority=common_pb2.PRIORITY_INTERACTIVE,
                )
                said[text] = list(stub.Generate(request, timeout=300))[-1].done.usage.completion_tokens
                return said[text]

            def service(prompts: list[str]) -> float:
                started = time.perf_counter()
                with ThreadPoolExecutor(AT_ONCE) as pool:
                    generated = sum(pool.map(one, prompts))
                return generated / (time.perf_counter() - started)

            def raw(prompts: list[str]) -> float:
                started = time.perf_counter()
                handles = []
                for number, text in enumerate(prompts):
                    config = openvino_genai.GenerationConfig(
                        max_new_tokens=said[text], ignore_eos=True, apply_chat_template=False
                    )
                    turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
                    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True)
                    encoded = tokenizer.encode(prompt, add_special_tokens=False).input_ids
                    handles.append(pipeline.add_request(number, encoded, config))
                generated = 0
                while pipeline.has_non_finished_requests():
                    pipeline.step()
                for handle in handles:
                    while handle.can_read():
                        generated += sum(len(output.generated_ids) for output in handle.read().values())
                if generated != sum(said[text] for text in prompts):
                    raise SystemExit("the pipeline made other numbers of tokens: this bench would compare unequal work")
                return generated / (time.perf_counter() - started)

            ours, theirs = count(100), count(100)  # both sides draw the same seeds, so the same prompts
            mine, other, ratio = median_of_pairs(
                lambda: service(texts(AT_ONCE, WORDS, seed=next(ours))),
                lambda: raw(texts(AT_ONCE, WORDS, seed=next(theirs))),
                runs=runs,
            )
    return [
        Row(f"service, {AT_ONCE} prompts at once", mine, "tokens/s"),
        Row(f"raw pipeline, {AT_ONCE} prompts at once", other, "tokens/s"),
        Row("service over raw pipeline", ratio, "ratio", ">= 0.9"),
    ]
