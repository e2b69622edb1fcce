"""Every bound, time-out and default of the server: a TOML file, then `MINDPRINT_*` variables, then flags."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from mindprint.thinking_text import ANSWER_PREFIX, LEAST_WORDS, THINKING_PREFIXES

if TYPE_CHECKING:
    from mindprint_server.store import Holdout


class Settings(BaseSettings):
    """All settings of the server. Flags win over the environment, the environment over the TOML file."""

    model_config = SettingsConfigDict(
        env_prefix="MINDPRINT_", toml_file="mindprint.toml", env_parse_none_str="null", extra="forbid"
    )

    # where
    host: str = "127.0.0.1"
    port: int = Field(8300, ge=0, le=65535)
    data_dir: Path = Path(".mindprint/server")
    database_url: SecretStr | None = None
    """Any async SQLAlchemy URL; by default a SQLite file in `data_dir`."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_json: bool = False

    # the engine
    engine: Literal["vllm", "fake"] = "vllm"
    model: str = "default"
    """A Hugging Face id, a local folder, or `default` (SmolLM2-135M-Instruct from its package)."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """`auto` is bfloat16, but float32 on a CPU that has no bfloat16 instructions."""
    max_model_len: int = Field(2048, ge=128)
    max_num_seqs: int = Field(64, ge=1)
    enforce_eager: bool = False
    """Eager starts a minute or so sooner on a GPU, which then waits for launches: on an H100 a server without it writes
    traces twice as fast (docs/decisions/020). A CPU is always eager."""
    load_format: Literal["auto", "dummy"] = "auto"
    """`dummy` fills the model's shape with random weights and reads none: for measuring, never for answers."""
    kv_cache_gib: float | None = Field(None, gt=0)
    """Size of the KV cache. Unset it is 1 GiB on a CPU, and on a GPU what `gpu_memory_utilization` leaves."""
    cpu_bind: str = "all"
    """Cores of the engine on CPU: `all`, `auto` (vLLM's choice: all but one), or a list such as `0-3`."""
    gpu_memory_utilization: float = Field(0.85, gt=0, le=1)
    """Share of a GPU's memory that must be free at the start and that the engine takes; with `kv_cache_gib` set it
    takes only what it needs."""
    max_loras: int = Field(8, ge=1)
    """Adapters in one engine step."""
    max_cpu_loras: int = Field(32, ge=1)
    """Adapters that the engine keeps loaded."""
    max_lora_rank: int = Field(16, ge=1)
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    engine_start_timeout_s: float = Field(900, gt=0)
    max_interactive: int = Field(256, ge=1)
    """Answers and single traces under way at once; more are told to come again (429)."""
    request_timeout_s: float = Field(300, gt=0)
    """For the body of a request to arrive, and for an answer to begin or a single trace to be written."""
    health_interval_s: float = Field(5, gt=0)

    # memory
    recall: Literal["recency", "bm25", "embeddings"] = "bm25"
    """Which past engagements a prompt shows: the newest, or those most like the query by words or by embeddings. By
    words the untrained model answered better (docs/decisions/018); the newest are one cached prefix."""
    recency_k: int = Field(4, ge=0, le=64)
    """Engagements recalled, whichever way; 0 is none."""
    recency_step: int = Field(5, ge=1, le=64)
    """Engagements for which the window of the newest only grows at its end, to be one cached prefix; 1 is just k."""
    recall_from: int = Field(500, ge=1)
    """Engagements, newest first, among which similarity chooses; by words that takes 10 ms of a core for a query."""
    embedding_model: Path | None = Field(None, validate_default=True)
    """The folder of the transformers model that recall by embeddings needs."""
    profile_every: int = Field(10, ge=1)
    """Engagements between two profiles of a user, and before the first."""
    profile_tokens: int = Field(120, ge=16)
    profile_piece: int = Field(10, ge=1)
    """Engagements summarized in one piece."""

    @field_validator("embedding_model")
    @classmethod
    def _needed_by_recall(cls, folder: Path | None, others: ValidationInfo) -> Path | None:
        if others.data.get("recall") == "embeddings" and (folder is None or not (folder / "config.json").is_file()):
            found = "it is not set" if folder is None else f"{folder} has no config.json"
            raise ValueError(f"recall=embeddings needs the folder of a transformers model, but {found}")
        return folder

    # writing
    thinking_prefixes: dict[str, str] = Field(default_factory=lambda: dict(THINKING_PREFIXES))
    """How each thinking mode begins, after `<think>`. Empty for models trained to reason."""
    reminder_engagements: int = Field(0, ge=0, le=8)
    """Past engagements, the most like the query, that personal thinking begins with: what was asked, what this user
    answered. It reads all of `recall_from` for each query."""
    max_thinking_tokens: int = Field(64, ge=1)
    max_answer_tokens: int = Field(64, ge=1)
    answer_prefix: str = ANSWER_PREFIX
    """What stands between the end of the thinking and the answer, as the memory's lines have it; without it a small
    model answers by habit, not by what it thought (docs/decisions/004). Empty for models trained to reason."""
    candidates: int = Field(3, ge=1, le=64)
    """The most candidates that one engagement gets."""
    unhinted_candidates: int = Field(2, ge=1, le=64)
    """Of these, how many before the writer is shown the answer."""
    hints: bool = True
    """Whether the writer is shown the answer once the unhinted candidates were rejected; such traces are marked."""
    early_stop_margin_nats: float | None = Field(0.5, ge=0)
    """Nats by which the real answer may trail the likeliest choice after the best candidate so far; an engagement that
    is further behind is given up (docs/decisions/006)."""
    early_stop_score_margin: float | None = Field(0.2, ge=0)
    """Nats a token by which Gain or Anchor of the best candidate so far may be under its bound; an engagement that is
    further off is given up too (docs/decisions/006)."""
    min_answer_frequency: float = Field(0.25, ge=0, le=1)
    """How often a user must have answered so before: the mean of the real answer's shares among the recalled and among
    the newest `recall_from` engagements, of those with the same choices. What is below is left out as
    `rare_answer` before the engine is asked anything, with `accept_by=answer` alone (docs/decisions/006); 0
    leaves nothing out."""
    exhaustive: bool = False
    """Whether `early_stop_margin_nats`, `early_stop_score_margin`, `min_answer_frequency` and `prefilter_by_prior`
    stand aside: every engagement then gets all its
    candidates until one is accepted. They buy speed with coverage, of which who has few engagements has none to spare;
    a batch may ask for it too (docs/decisions/006)."""
    candidates_per_round: int = Field(1, ge=1, le=64)
    """Candidates drawn at once, unless the engine has room to spare; more only where none was accepted."""
    cancel_siblings_on_accept: bool = True
    """Whether the others of a draw end in the engine once one is accepted."""
    prefilter_by_prior: bool = True
    """Whether the answer behind the bare thinking prefix is scored before anything is written: an engagement whose
    real answer trails by more than `early_stop_margin_nats` is left out as `prior_too_low`."""
    temperature: float = Field(0.7, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    """Below 1 it sorts the whole vocabulary for every token: 40 % of the speed on CPU (docs/decisions/004)."""
    min_p: float = Field(0.05, ge=0, le=1)
    """Tokens less likely than this share of the likeliest one's probability are never sampled."""
    min_thinking_words: int = Field(LEAST_WORDS, ge=0)
    """Of its own: neither the thinking prefix counts nor what leads an answer in."""
    batch_max_in_flight: int = Field(128, ge=1)
    """Engagements of batches that are worked on at once, at most; the engine's state decides how many really are."""
    batch_per_user: int = Field(16, ge=1)
    """Of these, how many of one user."""
    batch_max_starvation_s: float = Field(30, gt=0)
    """After this a waiting user takes the place of the one served longest."""
    batch_spare: float = Field(0.25, ge=0, le=1)
    """Share of the engine's slots that the last engagements of a batch fill by drawing several candidates at once."""
    plan_interval_s: float = Field(0.1, gt=0)
    """Seconds between two looks at the engine's state while a batch runs."""
    profiles_at_once: int = Field(8, ge=1)
    """Users whose profiles are written at the same time."""
    watch_interval_s: float = Field(0.5, gt=0)
    """Seconds between two progress events of a batch."""
    max_open_batches: int = Field(32, ge=1)

    # verdicts, in nats a token; a score whose bound is unset (`null`) is stored and decides nothing
    accept_by: Literal["answer", "gain"] = "answer"
    """What thinking about a closed question must do. `answer`: make the real answer the likeliest. `gain`: make it
    likelier than answering at once does, as with open questions; then no engagement is given up or left out. By
    answers alone, what a user answers seldom hardly ever gets a trace, and adapters learn that thinking leads to the
    user's commonest answer (docs/decisions/013)."""
    min_gain: float | None = 0.0
    """Least Gain: thinking must make the real answer likelier than answering at once."""
    min_anchor: float | None = 0.0
    """Least Anchor: it must do so more with this user's memory than with the nearest other user's."""
    max_hindsight_gap: float | None = None
    """Largest hindsight gap of a candidate whose writer saw the answer."""
    score_tokens: int = Field(32, ge=1)
    """Tokens of an open answer that are scored, from its beginning."""
    hindsight_tokens: int = Field(8, ge=1)
    """Tokens of a hinted thinking on which its hindsight gap is measured, evenly spread."""
    anchor_pool: int = Field(32, ge=0)
    """Other users among whom the nearest is looked for; 0 leaves Anchor out."""
    anchor_random_share: float = Field(0.25, ge=0, le=1)
    """Share of the otherwise accepted traces, drawn by their text, that are also compared with a random other user.
    That score decides nothing and costs as much as the nearest user's: a sample shows its mean (docs/decisions/008)."""
    anchor_history: int = Field(64, ge=1)
    """Engagements, newest first, by which users are compared."""
    anchor_refresh_s: float = Field(600, gt=0)
    """Seconds for which a user's neighbours are remembered."""
    anchor_memory_s: float = Field(10, ge=0)
    """Seconds for which a neighbour's memory is not read from the store again."""

    # the queue
    max_attempts: int = Field(3, ge=1)
    """Leases that end badly before a trace is set aside as dead."""
    max_backlog: int = Field(10_000, ge=1)
    """Accepted traces that may wait for one adapter, give or take what is in flight; a batch leaves out users above."""

    max_fast_samples: int = Field(512, ge=0)
    """Engagements, newest first, that a lease brings as samples of the ordinary objective; a cohort's in all."""
    holdout_share: float = Field(0.1, ge=0, lt=1)
    """Share of a user's engagements, the newest, that no training sees and the gate examines on; 0 is none."""
    holdout_min_engagements: int = Field(20, ge=1)
    """Engagements below which nothing of a user is held out: every one is needed for learning."""
    holdout_max_engagements: int = Field(16, ge=1)
    """Engagements of one user that are held out at most."""
    start_from: Literal["parent", "cohort", "base"] = "parent"
    """What a training begins with: the adapter's own live version, else its cohort's; always the cohort's; nothing."""
    cohort_min_traces: int = Field(64, ge=1)
    """Accepted traces of its users that a cohort's adapter has not learned from before it is trained (again). A trainer
    that names the cohort (`mindprint train --adapter cohort/<name>`) is held back by its own `min_traces` alone."""
    answer_rejected: bool = True
    """Whether the real answer is learned after the first unhinted thinking about an engagement, also where its answer
    or
    its scores spoke against that one. An accepted one that came later then teaches thinking alone: it was picked for
    its answer, and after picked thinking every answer seems certain (docs/decisions/014)."""
    replay_share: float = Field(0.1, ge=0, le=1)
    """Generic traces of the base model about nobody, as a share of a lease's other samples; 0 is none."""
    replay_wait_s: float = Field(10, ge=0)
    """Seconds, at most a quarter of the lease, for which a claim waits for replays that are still being written."""
    replay_at_once: int = Field(8, ge=1)
    """Replays that are being written at once."""

    # adapters
    parity_tolerance_nats: float = Field(0.3, gt=0)
    """Nats a token by which the engine may differ from the trainer, on average over the parity items. In one
    arithmetic they
    differ by under 0.01, in float32 against bfloat16 by 0.1 to 0.2; a trained adapter moves them by 1 to 3."""
    parity_min_shift_nats: float = Field(0.02, ge=0)
    """Nats a token by which the engine with the adapter must differ from the base, on average over the parity items."""
    parity_max_idle_wait_s: float = Field(1.0, ge=0)
    """How long each step of a parity check waits for a moment in which nobody is being answered. It has eight at
    most, with
    the trainer's defaults. What is read ahead through a new version waits as long. The gate does not (decision 019)."""
    lease_extension_s: float = Field(60, gt=0)
    """For how long a lease is prolonged, again and again, while its upload is proved and examined."""
    canary_share: float = Field(0.0, ge=0, lt=1)
    """Share of an adapter's requests that a new version answers before it is live; 0: it is live at once."""
    canary_requests: int = Field(50, ge=1)
    """Good answers after which a candidate goes live by itself."""
    health_window: int = Field(200, ge=1)
    """Newest answers of a version in service by which it is judged; a server judges by its own."""
    health_min_answers: int = Field(20, ge=1)
    """Answers before it is judged."""
    max_collapsed: float | None = Field(0.25, ge=0, le=1)
    """Share of its answers whose thinking may loop or be empty; above it the version is withdrawn (`null`: never)."""
    max_failed: float | None = Field(0.1, ge=0, le=1)
    """Share of its answers that may fail where the base does not; above it the version is withdrawn (`null`: never)."""
    prefetch_prefixes: bool = True
    """Whether a user's memory is read through a new version before it answers: the engine keeps prefixes by version,
    and the first question would wait for it."""
    prefetch_step_tokens: int = Field(128, ge=1)
    """How much of it is read in one step of the engine. Each waits as the steps of a parity check do."""
    adapter_max_starvation_s: float = Field(2, gt=0)
    """After this, the adapter served longest takes no new requests until a waiting one has its place in the engine."""
    adapter_wait_s: float = Field(20, gt=0)
    """Longest wait for a place among `max_cpu_loras`; after that 503."""
    keep_versions: int = Field(5, ge=1)
    """Newest versions of an adapter that keep their files, beside the pinned and the ones in service."""

    # the gate: a version that fails is refused. "Beyond noise" is Student's one-sided bound of the mean difference.
    gate: bool = True
    """Whether versions are examined at all; the parity check is made in any case."""
    gate_items: int = Field(16, ge=1)
    """Held-out engagements that one examination asks about, at most."""
    gate_min_items: int = Field(4, ge=2)
    """Held-out engagements below which personal scores are not judged."""
    gate_thoughts: int = Field(16, ge=2)
    """Thinkings that are written with the candidate, and as many with the base; of few engagements several each."""
    gate_thinking_tokens: int = Field(128, ge=1)
    """Tokens after which such a thinking counts as never closed: twice what most need, so that cuts hide no loss."""
    gate_at_once: int = Field(16, ge=1)
    """Thinkings that are written, or answers that are scored, at once. A score takes a request of the engine for each
    place where choices part, or for each token of an open answer, up to `score_tokens`."""
    gate_confidence: float = Field(0.95, gt=0.5, lt=1)
    """One-sided confidence with which a bound must be crossed."""
    gate_score_slack: float = Field(0.01, ge=0)
    """Nats by which the personal score may be lower, beyond noise: less is arithmetic."""
    gate_thinking_decides: bool = False
    """Whether the score after the version's own thinking may refuse it, or is only reported."""
    gate_max_collapse_rise: float = Field(0.02, ge=0, le=1)
    """Collapse rate over the base's, beyond noise."""
    gate_min_length_ratio: float = Field(0.6, ge=0)
    """Median thinking length over the base's, at least."""
    gate_max_length_ratio: float = Field(1.7, gt=0)
    """The same, at most."""
    gate_max_general_drop: float = Field(3.0, ge=0)
    """Points, of 100, by which the score on general questions may be under the base's."""

    # mode auto: thinking only where it is shown to pay for this user and this kind of query (closed or open)
    auto_min_items: int = Field(16, ge=2)
    """Questions of a user whose gain must be known; below that `auto` answers directly. Of a version they are the
    held-out ones that the gate asked (at most `gate_items`), of the base model those that batches thought about."""
    auto_confidence: float = Field(0.9, gt=0.5, lt=1)
    """One-sided confidence with which the mean gain must lie above `auto_min_gain` (Student's bound)."""
    auto_min_gain: float = Field(0.0, ge=0)
    """Nats by which thinking must make the real answers likelier; of open ones, and of the base model's, a token."""
    auto_refresh_s: float = Field(60, ge=0)
    """Seconds for which what was found is remembered; another version that answers is looked at at once."""

    # bounds on input
    max_body_bytes: int = Field(1_000_000, ge=1024)
    max_upload_bytes: int = Field(512 * 1024 * 1024, ge=1024)
    retry_after_s: int = Field(2, ge=1)
    shutdown_grace_s: float = Field(5, ge=0)

    @property
    def url(self) -> str:
        """The store's URL."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite+aiosqlite:///{self.data_dir / 'mindprint.db'}"

    @property
    def holdout(self) -> Holdout:
        """What is held out of every history."""
        from mindprint_server.store import Holdout

        return Holdout(self.holdout_share, self.holdout_min_engagements, self.holdout_max_engagements)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources of settings, the strongest first: flags, environment, TOML file.

        Args:
            settings_cls: The class of settings.
            init_settings: What was passed as arguments, that is, the flags.
            env_settings: The environment.
            dotenv_settings: Not used.
            file_secret_settings: Not used.
        """
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)
