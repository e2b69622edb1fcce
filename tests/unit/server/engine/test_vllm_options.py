"""Options of a command line like vLLM's. `tests/engine/test_vllm_engine.py` reads those of vLLM itself."""

from __future__ import annotations

import argparse
import json
from types import SimpleNamespace
from typing import Any

import pytest

from mindprint_server.engine.cpu_args import check_cpu_options
from mindprint_server.engine.vllm_options import (
    WrongOption,
    explain_flags,
    known_options,
    read_value,
    sort_options,
)
from mindprint_server.engine.vllm_outputs import StatsRecorder

ENGINE = ("kv_cache_dtype", "tensor_parallel_size", "enable_chunked_prefill", "compilation_config", "sizes", "memory")


@pytest.fixture
def known() -> dict[str, argparse.Action]:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kv-cache-dtype", choices=["auto", "fp8", None])
    parser.add_argument("--tensor-parallel-size", "-tp", type=int, default=1)
    parser.add_argument("--enable-chunked-prefill", action=argparse.BooleanOptionalAction)
    parser.add_argument("--compilation-config", type=json.loads)
    parser.add_argument("--sizes", type=int, nargs="+")
    parser.add_argument("--memory", "--device-memory", dest="memory", type=float)
    parser.add_argument("--enable-auto-tool-choice", action="store_true")
    parser.add_argument("--tool-call-parser")
    parser.add_argument("--uvicorn-log-level")
    parser.add_argument("--maybe", nargs="?", const=True)
    return known_options(parser._actions)


def test_options_are_known_by_long_names_without_negations(known: dict[str, argparse.Action]) -> None:
    assert {"tensor_parallel_size", "memory", "device_memory"} <= set(known)
    assert not {"no_enable_chunked_prefill", "tp", "help"} & set(known)


def test_options_are_sorted_into_engine_and_chat(known: dict[str, argparse.Action]) -> None:
    given = {"device_memory": "0.5", "tensor_parallel_size": 2, "tool_call_parser": "hermes"}
    sorted_ = sort_options(given, known, ENGINE)
    assert sorted_.engine == {"memory": 0.5, "tensor_parallel_size": 2}
    assert sorted_.chat == {"tool_call_parser": "hermes"}


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("kv_cache_dtype", "fp8", "fp8"),
        ("tensor_parallel_size", "2", 2),
        ("tensor_parallel_size", 2, 2),
        ("enable_chunked_prefill", "true", True),
        ("enable_chunked_prefill", "False", False),
        ("enable_chunked_prefill", False, False),
        ("enable_auto_tool_choice", "true", True),
        ("compilation_config", '{"mode": 3}', {"mode": 3}),
        ("compilation_config", {"mode": 3}, {"mode": 3}),
        ("sizes", "[1, 2]", [1, 2]),
        ("sizes", [1, 2], [1, 2]),
        ("sizes", "4", [4]),
        ("maybe", True, True),
        ("maybe", "text", "text"),
    ],
)
def test_value_gets_the_type_of_its_option(known: dict[str, argparse.Action], name: str, value: Any, read: Any) -> None:
    found = read_value(name, known[name], value)
    assert (found, type(found)) == (read, type(read))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("kv_cache_dtype", "int3", "kv_cache_dtype cannot be 'int3': it is one of auto, fp8"),
        ("tensor_parallel_size", "two", "tensor_parallel_size cannot be 'two'"),
        ("tensor_parallel_size", 2.5, r"tensor_parallel_size cannot be '2\.5'"),
        ("tensor_parallel_size", [2], "takes one value, not a list"),
        ("enable_chunked_prefill", "yes", "takes true or false, not 'yes'"),
        ("enable_chunked_prefill", 1, "takes true or false, not 1"),
        ("compilation_config", "{", "compilation_config cannot be"),
        ("sizes", "[1,", "sizes holds wrong JSON"),
        ("sizes", [], "takes a list"),
        ("sizes", {"a": 1}, "takes a list"),
    ],
)
def test_value_of_another_type_is_refused(known: dict[str, argparse.Action], name: str, value: Any, words: str) -> None:
    with pytest.raises(WrongOption, match=words):
        read_value(name, known[name], value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("kv_cache_type", "vLLM has no option kv_cache_type: did you mean kv_cache_dtype"),
        ("qqqq", "vLLM has no option qqqq: `vllm serve --help=all` lists its options"),
        ("uvicorn_log_level", "is an option of vLLM's HTTP server, which Mindprint does not run"),
    ],
)
def test_option_that_has_no_effect_is_refused(known: dict[str, argparse.Action], name: str, words: str) -> None:
    with pytest.raises(WrongOption, match=words):
        sort_options({name: "1"}, known, ENGINE)


def test_option_that_the_operations_on_a_cpu_need_is_refused_there() -> None:
    check_cpu_options({"block_size": 16})
    with pytest.raises(WrongOption, match="enable_chunked_prefill cannot be set on a CPU: long prompts are always"):
        check_cpu_options({"enable_chunked_prefill": True})


def test_message_that_names_flags_says_how_to_set_them() -> None:
    message = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
    assert explain_flags(message) == (
        f"{message}: start the server with --engine-arg enable_auto_tool_choice=… --engine-arg tool_call_parser=…"
    )


def test_message_with_words_of_a_caller_stays_as_it_is() -> None:
    assert explain_flags("no such file: --rm-rf --model x") == "no such file: --rm-rf --model x"


def test_names_of_adapters_do_not_reach_the_metrics_of_vllm() -> None:
    stats = SimpleNamespace(
        num_running_reqs=1,
        num_waiting_reqs=0,
        kv_cache_usage=0.5,
        running_lora_adapters={"user/ann@1": 1},
        waiting_lora_adapters={"user/bob@1": 1},
    )
    recorder = StatsRecorder()
    recorder.record(stats, None)
    assert recorder.latest.running == 1
    assert (stats.running_lora_adapters, stats.waiting_lora_adapters) == ({}, {})
