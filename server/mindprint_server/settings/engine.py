"""Settings of the engine: which model, in how much memory, with how many adapters."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, JsonValue, model_validator

from mindprint_server.settings.engine_args import read_engine_args


class EngineSettings(BaseModel):
    """The engine: model, memory, adapters. Most have the name and the meaning of vLLM's own argument."""

    engine: Literal["vllm", "fake"] = "vllm"
    """`vllm` runs the model. `fake` writes made-up text without a model: for tests of HTTP and of the store."""
    model: str = "default"
    """A Hugging Face id, a local folder, or `default` (SmolLM2-135M-Instruct from its package)."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Data type of the model's weights. `auto` is bfloat16, or float32 on a CPU without bfloat16 instructions."""
    max_model_len: int = Field(2048, ge=128)
    """Maximum number of tokens of a prompt together with what is written after it. A prompt that is too long shows less
    memory: the oldest engagement is dropped first."""
    max_num_seqs: int = Field(64, ge=1)
    """Maximum number of sequences in one engine step."""
    enforce_eager: bool = False
    """Run without CUDA graphs. The server then starts about a minute sooner but writes traces at half the speed on an
    H100. A CPU always runs so. Default: decision 020."""
    load_format: Literal["auto", "dummy"] = "auto"
    """`dummy` gives the model random weights and reads none: for measurements of speed only."""
    kv_cache_gib: float | None = Field(None, gt=0)
    """Size of the KV cache in GiB. Unset: 1 GiB on a CPU, and on a GPU what `gpu_memory_utilization` leaves."""
    cpu_bind: str = "all"
    """Cores of the engine on a CPU: `all`, `auto` (vLLM's choice: all but one), or a list such as `0-3`."""
    cpu_step_tokens: int = Field(512, ge=32)
    """Maximum number of tokens that an engine step computes on a CPU. A longer prompt takes several steps. In smaller
    steps answers begin sooner and batches take longer. Default: decision 041."""
    cpu_shared_step_tokens: int = Field(64, ge=16)
    """Maximum number of tokens of prompts in an engine step on a CPU while one tenant asks beside another's work, and
    for 10 seconds after. In smaller steps answers begin sooner and batches take longer. Default: decision 034."""
    gpu_memory_utilization: float = Field(0.85, gt=0, le=1)
    """Share of a GPU's memory that the engine takes and that must be free at the start. With `kv_cache_gib` set, it
    takes only what it needs."""
    max_loras: int = Field(8, ge=1)
    """Maximum number of different adapters in one engine step. Requests for others wait."""
    max_cpu_loras: int = Field(32, ge=1)
    """Maximum number of adapters that the engine keeps loaded. The least recently used is unloaded for a new one."""
    max_lora_rank: int = Field(16, ge=1)
    """Maximum LoRA rank that the engine serves. An upload of a higher rank is refused (422)."""
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Layers that an adapter may change. Leases name them to the trainer; an upload with others is refused (422)."""
    engine_args: Annotated[dict[str, JsonValue], AfterValidator(read_engine_args)] = Field(default_factory=dict)
    """Further options of `vllm serve`, by name: in TOML a table `[engine_args]`, on the command line `--engine-arg
    NAME=VALUE`. An option that vLLM does not have, or that Mindprint decides itself, is refused at the start. Default:
    none, decision 038."""
    adapter_max_starvation_s: float = Field(2, gt=0)
    """Seconds after which the adapter that is active longest gets no new requests, until a waiting adapter has taken
    its place in the engine."""
    engine_start_timeout_s: float = Field(900, gt=0)
    """Maximum seconds until the engine is ready. After them, the server ends with an error."""
    leftover_timeout_s: float = Field(10, gt=0)
    """Seconds to wait at the start until the engine of a server that was killed has ended and freed its memory. After
    them, the start goes on and logs an error."""
    health_interval_s: float = Field(5, gt=0)
    """Seconds between two checks that the engine is alive."""

    @model_validator(mode="after")
    def _check_engine_args(self) -> Self:
        if self.engine_args and self.engine != "vllm":
            raise ValueError(f"engine_args are options of vLLM, and engine is {self.engine}: take them out")
        return self
