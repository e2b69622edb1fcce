"""Every bound, time-out and default of the trainer. A `MINDPRINT_TRAIN_*` variable overrides it, and a flag both."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from mindprint.types import AdapterKeyStr

Schedule = Literal["mix", "sequential"]


class Settings(BaseSettings):
    """Settings of the trainer."""

    model_config = SettingsConfigDict(env_prefix="MINDPRINT_TRAIN_", extra="forbid")

    # server, model and logs
    server: str | None = None
    """Address of the server. Default: MINDPRINT_URL, or http://127.0.0.1:8300."""
    api_key: SecretStr | None = None
    """Key for the server. Default: MINDPRINT_API_KEY, or none."""
    model: str | None = None
    """The base model: a Hugging Face id, a local folder or `default`. Default: the folder that the server names."""
    work_dir: Path = Path(".mindprint/trainer")
    """Folder for checkpoints and for downloaded versions that training starts from."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Minimum level of the log lines to write."""
    log_json: bool = False
    """Write log lines as JSON."""
    log_every_s: float = Field(5, gt=0)
    """Seconds between two progress lines where there is no terminal."""
    tensorboard_dir: Path | None = None
    """Write TensorBoard files here, one folder for each training. Needs the package `tensorboard`."""
    wandb_project: str | None = None
    """Report to this Weights & Biases project, one run for each training. Needs the package `wandb`."""

    # leases
    once: bool = False
    """End when no adapter has `min_traces` waiting. Otherwise the trainer polls until it is stopped."""
    adapter: Annotated[tuple[AdapterKeyStr, ...], NoDecode] = ()
    """Train only these adapters, the first one that has traces waiting. In a variable, separate them with commas. Empty
    takes the adapter with the most traces waiting."""

    @field_validator("adapter", mode="before")
    @classmethod
    def _split_commas(cls, keys: object) -> object:
        return [key.strip() for key in keys.split(",") if key.strip()] if isinstance(keys, str) else keys

    owner: str = Field(default_factory=lambda: f"{socket.gethostname()[:99]}:{os.getpid()}", max_length=128)
    """Name that leases carry. Default: host name and process id."""
    min_traces: int = Field(6, ge=1)
    """Train an adapter only when this many accepted traces wait. With fewer it learns answers and stops thinking; until
    then the cohort's adapter or the base model answers. Default: decision 023."""
    max_traces: int = Field(1024, ge=1, le=10_000)
    """Maximum number of traces of one lease. The rest wait for the next lease."""
    max_concurrent_adapters: int = Field(1, ge=1, le=256)
    """Maximum number of adapters leased at once: those in training and those that wait for a thread."""
    parallel_threads: int | None = Field(None, ge=1)
    """Train this many of the leased adapters in threads of their own, each with its share of `threads`. With 1 all
    share forward passes. Each needs memory for its weights three times in float32, and for its passes. Default: one for
    each of `threads` on a CPU, where one small training leaves cores idle (decision 011), and 1 on a GPU."""
    max_pending_uploads: int = Field(4, ge=0)
    """Train on while at most this many versions wait for the server's checks. 0 waits for each version."""
    dry_run: bool = False
    """Show what the next lease would be trained on, release it and end."""

    # time limits
    ttl_s: float = Field(30, gt=0, le=3600)
    """Seconds that a lease lives without a heartbeat. A heartbeat is sent every third of it."""
    poll_s: float = Field(2, gt=0)
    """Seconds between two claims when nothing is waiting, also while uploads are checked. Varied by half at random."""
    startup_wait_s: float = Field(300, ge=0)
    """Seconds to wait at start for a server that does not answer, or is not ready. A server that says that it is
    starting is waited for without a bound: its own `engine_start_timeout_s` is one."""
    max_failures: int = Field(5, ge=1)
    """End after this many failed calls in a row. Each call has its own retries. Calls that find no server, or one that
    asks to retry, do not count."""
    absence_max_wait_s: float = Field(30, gt=0)
    """Maximum seconds between two tries while the server is away. The waits begin at `poll_s` and double."""
    max_absence_s: float | None = Field(None, gt=0)
    """End when the server is away for more than this many seconds. Default: none, so that a trainer waits for it."""

    # checkpoints
    checkpoint_every_steps: int = Field(5, ge=1)
    """Save a checkpoint every this many optimizer steps, and after the last one. A killed trainer repeats at most that
    many."""
    checkpoints: bool = True
    """Save checkpoints, so that a killed training continues."""
    checkpoint_keep_s: float = Field(86_400, gt=0)
    """Delete a checkpoint that is older than this many seconds when the trainer starts."""
    max_cached_parents: int = Field(4, ge=1)
    """Keep this many downloaded versions in `work_dir`, for the next training that starts from the same cohort."""

    # hardware
    device: str = "auto"
    """Torch device. `auto` takes the first CUDA device, or the CPU without one."""
    threads: int | None = Field(None, ge=1)
    """Threads of torch on a CPU. Default: the cores that this process may use."""
    base_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Data type of the base model in the server's engine. Base weights and the saved adapter are rounded to it."""
    compute_dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Data type in which the trainer computes. `auto` takes bfloat16 where the hardware multiplies it, else float32,
    which is several times faster there."""
    micro_batch_tokens: int | None = Field(None, ge=16)
    """Maximum number of tokens of one forward pass, padding included. A longer row gets a pass of its own. Default:
    1536 on a CPU, where more only costs memory, else 16,384."""
    logit_chunk: int = Field(1024, ge=1)
    """Positions whose logits are in memory at once, one float32 for each vocabulary entry."""
    forward_tolerance_nats: float = Field(1e-3, gt=0)
    """Train only if the trainer's log-probabilities of a short probe differ from the model's own by at most this many
    nats, in float32. Above it a slower way to compute is taken, or the model is refused. Default: decision 036."""
    share_prompts: bool = True
    """Compute a prefix that several sequences of a pass share only once."""

    # adapter
    rank: int = Field(16, ge=1)
    """LoRA rank of a new adapter. It is lowered to what the server can serve."""
    alpha: float = Field(32, gt=0)
    """LoRA alpha of a new adapter: its output is multiplied with alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapter's input. Default: off, since with a few dozen samples it harms more than it helps."""
    target_modules: tuple[str, ...] | None = None
    """Linear layers that get an adapter, by the last part of their names. Default: all that the server can serve."""

    # training
    schedule: Schedule = "mix"
    """Order of the samples. `mix` trains on all kinds in each epoch; `sequential` on all fast samples first, then on
    the slow and replay ones."""
    soft_labels: int = Field(0, ge=0, le=64)
    """Train the thinking towards the base model's this many likeliest tokens instead of the one that was written. 0
    disables it."""
    epochs: int = Field(4, ge=1)
    """How often each sample is trained on. Default: 4, since a new user's samples make few steps an epoch."""
    batch_size: int = Field(8, ge=1)
    """Sequences of one optimizer step. Default: 8; with 16, two dozen engagements made six steps in all."""
    max_length: int = Field(2048, ge=2)
    """Maximum number of tokens of a sequence. The prompt is cut from the left to fit."""
    learning_rate: float = Field(4e-4, gt=0)
    """Peak learning rate of AdamW. Default: for the 135M model and about ten steps; begin with 1e-4 for models of 1B
    and more."""
    warmup: float = Field(0.1, ge=0, le=1)
    """Fraction of the steps, the first ones, in which the learning rate rises."""
    decay: float = Field(0.0, ge=0, le=1)
    """Fraction of the steps, the last ones, in which the learning rate falls to zero. Between both it is constant."""
    weight_decay: float = Field(0.01, ge=0)
    """Weight decay of AdamW."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Maximum norm of an adapter's gradient. A larger gradient is clipped to it."""
    balance: bool = True
    """Let slow and fast samples count equally in total, whatever their numbers. Off, an adapter with 60 fast and 33
    slow samples stopped thinking (decision 010)."""
    slow_weight: float = Field(1.0, ge=0)
    """Weight of slow samples: thinking and answer. 0 leaves them out."""
    fast_weight: float = Field(1.0, ge=0)
    """Weight of fast samples: the answer alone. 0 leaves them out."""
    replay_weight: float = Field(1.0, ge=0)
    """Weight of replay samples: generic thinking of the base model. 0 leaves them out."""
    delimiter_weight: float = Field(1.0, ge=0)
    """Weight of how thinking begins and of how it ends, each as a part of its own. Counted as part of the thinking,
    these few words are hardly learned (decision 014)."""
    thinking_weight: float = Field(1.0, ge=0)
    """Weight of the thinking."""
    answer_weight: float = Field(1.0, ge=0)
    """Weight of the answer."""
    answer_smoothing: float = Field(0.3, ge=0, lt=1)
    """Label smoothing of closed answers: the share of the label's probability that is spread evenly over all choices.
    At 0 an adapter memorizes a few dozen answers and becomes as certain about new ones (decision 017)."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of the first weights, the order and the dropout. Each failed try of the same traces adds 1."""

    # parity check
    parity_items: int = Field(1, ge=1, le=32)
    """Parity items of a version. Each costs the engine, with the adapter and without, a step for its prompt and one for
    each further target token (decision 019)."""
    parity_pool: int = Field(8, ge=1)
    """Measure this many samples, and send the `parity_items` with the most evidence."""
    parity_prompt_tokens: int = Field(32, ge=1, le=8192)
    """Prompt tokens of a parity item, the last ones before the target. With fewer, two implementations differ by more
    (decision 003); more cost both sides time. 32 fill blocks of the engine's prefix cache, so that it reads each token
    once."""
    parity_target_tokens: int = Field(4, ge=1, le=64)
    """Target tokens of a parity item."""

    def recipe(self) -> dict[str, Any]:
        """Return the settings that decide the trained weights, for the manifest: no address, path or key."""
        return self.model_dump(mode="json", include=RECIPE)


RECIPE = {
    "schedule",
    "soft_labels",
    "base_dtype",
    "rank",
    "alpha",
    "dropout",
    "epochs",
    "batch_size",
    "max_length",
    "learning_rate",
    "warmup",
    "decay",
    "weight_decay",
    "max_grad_norm",
    "balance",
    "slow_weight",
    "fast_weight",
    "replay_weight",
    "delimiter_weight",
    "thinking_weight",
    "answer_weight",
    "answer_smoothing",
    "seed",
    "share_prompts",
    "micro_batch_tokens",
}
