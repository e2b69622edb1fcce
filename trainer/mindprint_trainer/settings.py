"""Every bound, time-out and default of the trainer: from `MINDPRINT_TRAIN_*` variables or flags, in rising order."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from mindprint.types import AdapterKey

Schedule = Literal["mix", "sequential"]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="MINDPRINT_TRAIN_", extra="forbid")

    # where
    server: str | None = None
    """The server's address; by default MINDPRINT_URL or http://127.0.0.1:8300."""
    api_key: SecretStr | None = None
    """By default MINDPRINT_API_KEY, or none."""
    model: str | None = None
    """A Hugging Face id, a local folder or `default`; by default the folder that the server names."""
    work_dir: Path = Path(".mindprint/trainer")
    """Holds checkpoints, and the versions that trainings start from."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_json: bool = False
    log_every_s: float = Field(5, gt=0)
    """Seconds between two progress lines where there is no terminal."""
    tensorboard_dir: Path | None = None
    """Where to write TensorBoard files, a folder for each training; needs `tensorboard`."""
    wandb_project: str | None = None
    """Where to report to Weights & Biases, a run for each training; needs `wandb`."""

    # what to take
    once: bool = False
    """End when no adapter has `min_traces` waiting, instead of polling for ever."""
    adapter: Annotated[tuple[AdapterKey, ...], NoDecode] = ()
    """Only these, the first that has traces waiting; in a variable with commas between. None: whichever waits most."""

    @field_validator("adapter", mode="before")
    @classmethod
    def _by_commas(cls, keys: object) -> object:
        return [key.strip() for key in keys.split(",") if key.strip()] if isinstance(keys, str) else keys

    owner: str = Field(default_factory=lambda: f"{socket.gethostname()[:99]}:{os.getpid()}", max_length=128)
    min_traces: int = Field(6, ge=1)
    """Accepted traces that wait before an adapter is trained on them. Of fewer it learns answers and forgets to think
    (docs/decisions/023); until then the cohort's, or the base, answers."""
    max_traces: int = Field(1024, ge=1, le=10_000)
    together: int = Field(1, ge=1, le=256)
    """Adapters that are leased at once: those in training, and those that wait for a lane."""
    lanes: int | None = Field(None, ge=1)
    """How many of them are trained beside each other, each with its share of `threads`; with 1 all share their passes.
    Each in training needs memory for its weights three times over in float32, and for its passes. By default a lane for
    each thread on a CPU, where one small training leaves cores idle (docs/decisions/011), and 1 elsewhere, where large
    passes are what fills the device."""
    publishing: int = Field(4, ge=0)
    """Versions that may be on their way to the server while training goes on, for it takes its time to examine them;
    0 waits for each."""
    dry_run: bool = False
    """Say what would be trained on, give the lease back and end."""

    # time
    ttl_s: float = Field(30, gt=0, le=3600)
    """How long a lease lives without a heartbeat; one is sent every third of it."""
    poll_s: float = Field(2, gt=0)
    """Sleep when nothing is waiting, give or take half of it."""
    startup_wait_s: float = Field(300, ge=0)
    """How long to wait for the server to be ready when the trainer starts."""
    max_failures: int = Field(5, ge=1)
    """Calls in a row that may fail before the trainer gives up; each has its own retries."""

    # after a crash
    checkpoint_every_steps: int = Field(5, ge=1)
    """A killed trainer does at most so many steps again; the last step is always kept."""
    checkpoints: bool = True
    checkpoint_keep_s: float = Field(86_400, gt=0)
    """A checkpoint that nobody took up again is removed once it is this old."""
    kept_starts: int = Field(4, ge=1)
    """Downloaded versions that stay in `work_dir`, for trainings that start from the same cohort."""

    # hardware
    device: str = "auto"
    threads: int | None = Field(None, ge=1)
    """Threads of torch on CPU; by default as many as this process may use cores."""
    base_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """What the engine serves the base in: base weights and the saved adapter are rounded to it."""
    compute_dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """`auto`: bfloat16 where the hardware multiplies it, else float32 (several times faster there, and exact)."""
    micro_batch_tokens: int | None = Field(None, ge=16)
    """Tokens of one forward pass, padding included; a longer row goes alone. By default 1536 on CPU, where more
    shares little more and costs memory, else 16,384."""
    logit_chunk: int = Field(1024, ge=1)
    """Positions whose logits (one float32 a vocabulary entry) are in memory at once."""
    share_prompts: bool = True
    """Compute a beginning that several sequences of a pass share only once."""

    # the adapter
    rank: int = Field(16, ge=1)
    alpha: float = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    """Off: at a few dozen samples and two epochs its noise costs more than it saves, and the run stays exact."""
    target_modules: tuple[str, ...] | None = None
    """By default every linear layer that the engine can load."""

    # the training
    schedule: Schedule = "mix"
    """`sequential`: all fast samples first, then the slow ones with the replay."""
    soft_labels: int = Field(0, ge=0, le=64)
    """Train the thinking towards the base model's own likeliest tokens, this many, instead of the one it drew."""
    epochs: int = Field(4, ge=1)
    """A young user gives only a few steps an epoch."""
    batch_size: int = Field(8, ge=1)
    """Sequences of one optimizer step. A young user gives few: with 16, two dozen engagements made six steps in all."""
    max_length: int = Field(2048, ge=2)
    """Tokens of a sequence; the prompt is cut from the left to fit."""
    learning_rate: float = Field(4e-4, gt=0)
    """For the 135M default model, where one user gives about ten steps; 1e-4 is the start for models of 1B and more."""
    warmup: float = Field(0.1, ge=0, le=1)
    """Share of the steps, the first ones, in which the rate rises."""
    decay: float = Field(0.0, ge=0, le=1)
    """Share of the steps, the last ones, in which the rate falls to zero; in between it is constant."""
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    balance: bool = True
    """Whether slow and fast samples count alike in all, whatever their numbers: with 60 fast ones to 33 slow ones the
    gate refused an adapter whose thinking had shrunk to a few words; one to one it passed (docs/decisions/010)."""
    slow_weight: float = Field(1.0, ge=0)
    fast_weight: float = Field(1.0, ge=0)
    replay_weight: float = Field(1.0, ge=0)
    frame_weight: float = Field(1.0, ge=0)
    """Of how thinking begins, and of how it ends. As parts of the thinking these few words are hardly learned: from
    the bare `<think>` an adapter goes on as if it had thought already, or never ends (docs/decisions/014)."""
    thinking_weight: float = Field(1.0, ge=0)
    answer_weight: float = Field(1.0, ge=0)
    answer_smoothing: float = Field(0.3, ge=0, lt=1)
    """Of a closed answer's certainty the share that all choices get alike, the real one among them. At 0 a few dozen
    answers are learned by heart, and new ones held for as certain (docs/decisions/017)."""
    seed: int = Field(0, ge=0, lt=2**31)

    # the proof
    canary_items: int = Field(1, ge=1, le=32)
    """Each costs the engine, with the adapter and without, a step for its prompt and one for each further target token
    (docs/decisions/019)."""
    canary_pool: int = Field(8, ge=1)
    """Samples that are measured; the `canary_items` that tell most of the adapter are sent."""
    canary_prompt_tokens: int = Field(32, ge=1, le=8192)
    """The last ones before the target. Behind fewer, two arithmetics differ by more (docs/decisions/003); more cost
    both sides their time. So many fill a block of the engine's prefix cache (or two on a GPU), so that the engine reads
    each of them once and not again for every target token."""
    canary_target_tokens: int = Field(4, ge=1, le=64)

    @property
    def softens(self) -> bool:
        """Whether some target is a distribution over tokens instead of one token."""
        return bool(self.soft_labels or self.answer_smoothing)

    def recipe(self) -> dict[str, Any]:
        """What decides the trained weights, for the manifest: no address, path or key."""
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
    "frame_weight",
    "thinking_weight",
    "answer_weight",
    "answer_smoothing",
    "seed",
    "share_prompts",
    "micro_batch_tokens",
}
