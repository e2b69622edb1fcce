"""vLLM's own behaviour: its caches, its lists of requests and adapters, and bugs of its versions."""

from __future__ import annotations

import asyncio
import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from chat_templates import make_model as make_family_model
from mindprint.base_support import SERVED_METHODS
from mindprint_server.app import create_app
from mindprint_server.engine import AdapterRef, Priority, Sampling
from mindprint_server.engine.lora_support import check_architecture
from mindprint_server.engine.process_records import ProcessRecords
from mindprint_server.engine.vllm import VllmEngine
from mindprint_server.engine.vllm_openai import VllmChat
from mindprint_server.engine.vllm_options import (
    CHAT_OPTIONS,
    WrongOption,
    known_options,
    read_vllm_options,
    serve_parser,
)
from mindprint_server.exceptions import BackendRefused
from mindprint_server.prompts.types import Prompt
from mindprint_server.settings import Settings
from mindprint_server.settings.engine_args import DECIDED
from mindprint_server.wiring import Services
from proved import live_version
from tiny import TARGETS, make_adapter

NOW = Priority.INTERACTIVE
SETTINGS = Settings()
WAIT_MS = 60_000
TEXT = "A tiny model reads this line, byte by byte. "


def ref(folder: Path, number: int) -> AdapterRef:
    return AdapterRef("user/ann", number, "sha256:0", 1000 + number, folder)


async def test_start_ends_with_the_warm_up(engine: VllmEngine, start_phases: list[str]) -> None:
    assert engine.ready
    assert start_phases[-1] == "warming up"


async def test_engine_args_reach_vllm(engine: VllmEngine) -> None:
    assert engine.llm.model_config.max_logprobs == 21
    backend = engine.llm.vllm_config.attention_config.backend
    assert backend is not None
    assert backend.name == "CPU_ATTN"


def read_written(metrics: str) -> float:
    """The number of tokens that vLLM has counted."""
    families = {family.name: family for family in text_string_to_metric_families(metrics)}
    samples = families["vllm:generation_tokens"].samples
    return next(float(sample.value) for sample in samples if sample.name.endswith("_total"))


async def test_metrics_of_vllm_are_shown_without_names_of_users(
    services: Services, adapters: list[Path], tmp_path: Path
) -> None:
    version = await live_version(services, adapters[0], tmp_path, 1)
    transport = httpx.ASGITransport(create_app(services.settings, services=services))
    body = {"model": f"user/ann@{version.version}", "messages": [{"role": "user", "content": "A walk?"}]}
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        answer = await http.post("/v1/chat/completions", json=body | {"max_tokens": 4})
        async with asyncio.timeout(20):  # vLLM counts a step after its tokens were passed on
            while (text := (await http.get("/metrics")).text) and read_written(text) < 4:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert answer.status_code == 200, answer.text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {"vllm:num_requests_running", "vllm:kv_cache_usage_perc", "mindprint_requests"} <= set(families)
    assert {sample.labels["model_name"] for sample in families["vllm:generation_tokens"].samples} == {"base"}
    assert "user/ann" not in text


REAL_OPTIONS = {
    "quantization": ("fp8", "fp8"),
    "tensor_parallel_size": ("2", 2),
    "kv_cache_dtype": ("fp8", "fp8"),
    "attention_backend": ("FLASH_ATTN", "FLASH_ATTN"),
    "reasoning_parser": ("deepseek_r1", "deepseek_r1"),
    "enable_expert_parallel": ("true", True),
    "max_num_batched_tokens": ("4k", 4000),
    "cudagraph_capture_sizes": ("[1, 2]", [1, 2]),
    "speculative_config": ({"method": "ngram", "num_speculative_tokens": 2},) * 2,
}


async def test_options_get_the_types_of_vllm(engine: VllmEngine) -> None:
    given = {name: value for name, (value, _) in REAL_OPTIONS.items()}
    chat = {"enable_auto_tool_choice": "true", "tool_call_parser": "hermes"}
    options = read_vllm_options(given | chat)
    assert options.engine == {name: read for name, (_, read) in REAL_OPTIONS.items()}
    assert options.chat == {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"quantisation": "fp8"}, "vLLM has no option quantisation: did you mean quantization"),
        ({"kv_cache_dtype": "int3"}, "kv_cache_dtype cannot be 'int3': it is one of .*fp8"),
        ({"reasoning_parser": "r1"}, "reasoning_parser cannot be 'r1': it is one of .*deepseek_r1"),
        ({"tool_call_parser": "hermit"}, "tool_call_parser cannot be 'hermit': it is one of .*hermes"),
        ({"enable_auto_tool_choice": True}, "enable_auto_tool_choice needs a parser: set tool_call_parser too"),
        ({"compilation_config": {"mod": 3}}, "compilation_config cannot be"),
        ({"root_path": "/x"}, "root_path is an option of vLLM's HTTP server"),
    ],
)
async def test_options_that_vllm_would_not_take_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(WrongOption, match=words):
        read_vllm_options(given)


async def test_every_option_that_mindprint_decides_is_one_of_vllm() -> None:
    known = known_options(serve_parser()._actions)
    assert set(DECIDED) - set(known) <= {"model_tag"}
    assert set(known) >= CHAT_OPTIONS


async def test_folder_with_mistrals_own_files_too_is_read_as_the_trainer_reads_it(
    engine_settings: Settings, tmp_path: Path
) -> None:
    folder = make_family_model("mistral_v3", tmp_path)
    (folder / "consolidated.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "params.json").write_text('{"dim": 32, "n_layers": 1}', encoding="utf-8")
    (folder / "tekken.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RuntimeError, match=r"consolidated.safetensors beside model.safetensors"):
        VllmEngine(engine_settings)._engine_args(str(folder))
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}', encoding="utf-8")
    args = VllmEngine(engine_settings)._engine_args(str(folder))
    config = args.create_model_config()
    assert config.hf_config.hidden_size == 64, "of config.json"
    assert (config.tokenizer_mode, args.load_format) == ("hf", "hf")


async def make_chat(engine: VllmEngine, options: dict[str, Any]) -> VllmChat:
    """Chat classes with other options than the engine's."""
    path, chat_format = engine.info().model_path, engine.tokenizer.chat_format
    return await VllmChat.create(
        engine.llm,
        engine.slots,
        model_path=path,
        chat_format=chat_format,
        chat_template=engine.tokenizer.chat_template,
        options=options,
    )


async def test_direct_chat_takes_the_tokenizers_template_before_a_processors(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model in a multimodal wrapper has a template in its processor too. Training and scores use the tokenizer's."""
    monkeypatch.setattr("vllm.renderers.hf._try_get_processor_chat_template", lambda *_, **__: "{{ 'another' }}")
    chat = await make_chat(engine, {})
    messages = [{"role": "user", "content": "Tea or coffee?"}]
    request = chat._read({"messages": messages}, "base", None)
    rendered = await chat._serving.chat.render_chat_request(request)
    wanted = engine.tokenizer.encode(engine.tokenizer.render(messages))
    assert list(rendered[1][0]["prompt_token_ids"]) == wanted


TOOL = {"type": "function", "function": {"name": "walk", "parameters": {"type": "object", "properties": {}}}}
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "A walk?"}], "max_tokens": 4, "seed": 1}


def ignore(tokens: int) -> None:
    """Take the number of tokens, which these tests do not count."""


async def test_tools_without_a_parser_are_refused_with_what_to_set(engine: VllmEngine) -> None:
    chat = await engine.chat_backend()
    with pytest.raises(BackendRefused, match="--engine-arg enable_auto_tool_choice=… --engine-arg tool_call_parser=…"):
        await chat.complete(ASK | {"tools": [TOOL]}, None, count=ignore)


async def test_tools_with_a_parser_are_answered(engine: VllmEngine) -> None:
    options = {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"}
    chat = await make_chat(engine, options)
    answer = await chat.complete(ASK | {"tools": [TOOL]}, None, count=ignore)
    assert isinstance(answer, dict)
    assert answer["usage"]["completion_tokens"] == 4


async def test_reasoning_parser_leaves_a_continued_answer_alone(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM's parsers take text without a closing tag for thinking. Behind Mindprint's own thinking it is the answer."""
    from vllm.reasoning import ReasoningParser, ReasoningParserManager

    class TakesAll(ReasoningParser):  # type: ignore[misc]  # vLLM is not typed
        def is_reasoning_end(self, input_ids: Any) -> bool:
            return False

        def extract_content_ids(self, input_ids: Any) -> list[int]:
            return []

        def extract_reasoning(self, model_output: str, request: Any) -> tuple[str | None, str | None]:
            return model_output, None

        def extract_reasoning_streaming(self, *args: Any) -> None:
            return None

    ReasoningParserManager.register_module("takes_all", True, TakesAll)
    monkeypatch.setattr(engine.llm.vllm_config.structured_outputs_config, "reasoning_parser", "takes_all")
    chat = await make_chat(engine, {})
    begun = [*ASK["messages"], {"role": "assistant", "content": "<think>\nLakes.\n</think>\nThis user's answer:"}]
    body = ASK | {"messages": begun, "add_generation_prompt": False, "continue_final_message": True}
    text = "A walk? <think>\nLakes.\n</think>\nThis user's answer:"
    prompt = Prompt(text, engine.tokenizer.encode(text), 0)
    answers = [
        await chat.complete(ASK, None, count=ignore),
        await chat.complete(body, None, count=ignore),
        await chat.complete(ASK, None, prompt, count=ignore),
    ]
    messages = [answer["choices"][0]["message"] for answer in answers if isinstance(answer, dict)]
    assert [(bool(message["content"]), bool(message["reasoning"])) for message in messages] == [
        (False, True),
        (True, False),
        (True, False),
    ]


async def test_what_the_cache_holds_is_known(engine: VllmEngine, engine_settings: Settings) -> None:
    """Keys and values of every layer in float32."""
    config = engine.llm.model_config.hf_config
    head = config.hidden_size // config.num_attention_heads
    a_token = 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * head
    assert engine_settings.kv_cache_gib is not None
    holds = engine_settings.kv_cache_gib * 2**30 / a_token
    assert engine.info().cache_tokens == pytest.approx(holds, rel=0.01)


async def test_a_prefix_is_computed_once(engine: VllmEngine) -> None:
    ids = engine.tokenizer.encode("Shared by many. " * 40)
    sampling = Sampling(max_tokens=1)
    first = await engine.generate(ids, sampling, adapter=None, priority=NOW)
    second = await engine.generate(ids, sampling, adapter=None, priority=NOW)
    assert first.cached_tokens == 0
    assert second.cached_tokens >= len(ids) // 2


async def test_seeded_answer_is_the_same_whether_its_prompt_takes_one_step_or_several(engine: VllmEngine) -> None:
    prompts = [engine.tokenizer.encode(f"{number} " + "word " * 300) for number in range(4)]
    assert all(len(prompt) > SETTINGS.cpu_step_tokens for prompt in prompts)
    sampling = Sampling(max_tokens=8, temperature=1.0, seed=7)

    async def write() -> list[list[int]]:
        written = await asyncio.gather(*(engine.generate(p, sampling, adapter=None, priority=NOW) for p in prompts))
        return [list(one.token_ids) for one in written]

    in_pieces = await write()
    from_cache = await write()
    assert in_pieces == from_cache
    assert not engine.dead.is_set()


async def test_cancelling_frees_the_engine(engine: VllmEngine) -> None:
    ids = engine.tokenizer.encode(TEXT)
    # Random weights may end a sequence by themselves at any token: of several some are still running.
    sampling = [Sampling(max_tokens=1500, temperature=1.0, seed=seed) for seed in range(12)]
    tasks = [asyncio.create_task(engine.generate(ids, one, adapter=None, priority=NOW)) for one in sampling]
    await asyncio.sleep(0.2)
    for task in tasks:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert any(isinstance(end, asyncio.CancelledError) for end in ends)
    await asyncio.sleep(0.5)
    assert not engine.llm.output_processor.request_states


async def test_an_adapter_is_in_vllm_from_load_to_unload(engine: VllmEngine, adapters: list[Path]) -> None:
    one = ref(adapters[0], 1)
    await engine.load(one)
    assert one.engine_id in await engine.llm.list_loras()
    await engine.unload(one)
    assert one.engine_id not in await engine.llm.list_loras()


async def test_refused_files_are_named_in_the_message(engine: VllmEngine, tiny_model: Path, tmp_path: Path) -> None:
    too_big = make_adapter(tiny_model, tmp_path / "big", seed=1, rank=32)
    with pytest.raises(ValueError, match="refused adapter user/ann@20"):
        await engine.load(ref(too_big, 20))
    with pytest.raises(ValueError, match="refused"):
        await engine.load(ref(tmp_path / "nowhere", 21))


async def test_engine_ends_when_its_server_is_killed(tiny_model: Path, tmp_path: Path) -> None:
    left = await asyncio.to_thread(killed_server, tiny_model, tmp_path)
    assert await asyncio.to_thread(all_end, left)


async def test_next_start_ends_an_engine_that_does_not_watch_its_server(tiny_model: Path, tmp_path: Path) -> None:
    left = await asyncio.to_thread(killed_server, tiny_model, tmp_path, VLLM_PLUGINS="")
    core = left[0]
    assert not core.poll(1000)
    assert await asyncio.to_thread(ProcessRecords(tmp_path / "engine").end_leftovers, WAIT_MS / 1000) == 1
    assert await asyncio.to_thread(all_end, left)


def killed_server(model: Path, data_dir: Path, **variables: str) -> list[select.poll]:
    """Start a server process and kill it once it is ready.

    Returns:
        What tells of the end of its engine's core, and of the core's workers.
    """
    settings = {
        "MODEL": str(model),
        "DATA_DIR": str(data_dir),
        "PORT": "0",
        "LOG_JSON": "true",
        "DTYPE": "float32",
        "KV_CACHE_GIB": "0.25",
        "TARGET_MODULES": json.dumps(TARGETS),
    }
    environment = os.environ | {f"MINDPRINT_{name}": value for name, value in settings.items()} | variables
    command = [sys.executable, "-m", "mindprint_server"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            assert any('"event": "ready"' in line for line in server.stderr)
            (core,) = json.loads((data_dir / "engine" / f"{server.pid}.json").read_text())["children"]
            workers = children_of(core["pid"])
            assert workers, "vLLM's worker on a CPU is a process of its own"
            watched = [poll_end(pid) for pid in (core["pid"], *workers)]
            assert not any(one.poll(0) for one in watched)
        finally:
            server.kill()
    return watched


def children_of(pid: int) -> list[int]:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]


def poll_end(pid: int) -> select.poll:
    """Return what becomes readable when a process ends. Its descriptor is left to the end of the test run."""
    ended = select.poll()
    ended.register(os.pidfd_open(pid), select.POLLIN)
    return ended


def all_end(processes: list[select.poll]) -> bool:
    return all(one.poll(WAIT_MS) for one in processes)


def with_architectures(folder: Path, *architectures: str) -> Path:
    (folder / "config.json").write_text(json.dumps({"architectures": architectures}))
    return folder


async def test_an_architecture_without_adapters_is_refused_at_start(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="vLLM serves no adapters on StableLmForCausalLM: name another") as caught:
        check_architecture(with_architectures(tmp_path, "StableLmForCausalLM"))
    assert "\n" not in str(caught.value)
    check_architecture(tmp_path, "transformers")


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "AnArchitectureThatVllmDoesNotKnow"])
async def test_an_architecture_with_adapters_is_not_refused(name: str, tmp_path: Path) -> None:
    check_architecture(with_architectures(tmp_path, name))


async def test_architecture_when_its_code_needs_a_missing_package_then_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.model_executor.models import ModelRegistry

    def load(_: object) -> None:
        raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision")

    monkeypatch.setattr(type(ModelRegistry.models["LlamaForCausalLM"]), "load_model_cls", load)
    with pytest.raises(RuntimeError, match="LlamaForCausalLM needs the package torchvision, which is not installed"):
        check_architecture(with_architectures(tmp_path, "LlamaForCausalLM"))


async def test_the_list_of_quantizations_is_that_of_vllm() -> None:
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS

    assert SERVED_METHODS - {"auto-round"} <= set(QUANTIZATION_METHODS)
