"""Settings of adapters: the parity check, canary, health, slots in the engine, kept files."""

from __future__ import annotations

from pydantic import BaseModel, Field


class AdapterSettings(BaseModel):
    """Adapters: the parity check of an upload, canary, withdrawal of bad versions, slots in the engine, kept files."""

    publication_claim_ttl_s: float = Field(30, gt=0)
    """Seconds for which a server holds a publication without extending its claim. After that, for instance when it was
    killed, any server goes on with it. A claim is extended every third of it."""
    publication_poll_s: float = Field(5, gt=0)
    """Seconds between two looks for publications that another server left. Own uploads are begun at once."""
    max_publication_tries: int = Field(10, ge=1)
    """Tries of a publication. After that many errors or restarts it has failed, and its traces wait again. A slot, a
    disk or a database that is busy does not count: it is waited for until `max_publication_s` after the upload."""
    publication_retry_min_s: float = Field(5, gt=0)
    """Seconds between the first error of a publication and its next try. The wait doubles with each further error.
    A try begins at a look for publications (`publication_poll_s`), at the server that is free first."""
    publication_retry_max_s: float = Field(60, gt=0)
    """Longest wait between two tries of a publication in seconds. With the defaults ten tries take six minutes, and the
    time of their checks."""
    max_upload_json_depth: int = Field(16, ge=4)
    """Deepest nesting of objects and lists in the manifest and in adapter_config.json. An upload that is nested deeper
    is refused with 422. Default: the trainer's manifest has 4 levels, PEFT's config 2."""
    max_manifest_keys: int = Field(2000, ge=1)
    """Maximum number of keys of a manifest, those of its inner objects included. An upload with more is refused with
    422. Default: the trainer writes about 60; 32 parity items, the most there may be, have 128."""
    max_adapter_config_bytes: int = Field(65_536, ge=1024)
    """Largest adapter_config.json in bytes. An upload with a larger one is refused with 422. Default: PEFT writes less
    than 2 KiB."""
    max_weights_header_bytes: int = Field(2_000_000, ge=1024)
    """Longest header of the uploaded weights in bytes. An upload with a longer one is refused with 422. Default: room
    for 12,000 tensors, ten times as many as all seven target modules of an 80-layer model have."""
    max_lora_alpha: float = Field(4096, gt=0)
    """Largest `lora_alpha` of an adapter. An upload with a larger one is refused with 422. Default: eight times
    the largest in common use (512)."""
    max_tensor_norm: float = Field(10_000, gt=0)
    """Largest Frobenius norm of one tensor of an adapter, without the factor of `lora_alpha`. An upload with a larger
    one is refused with 422. Default: no value can then overflow float16, which ends at 65,504. A new
    adapter has norms below 10."""
    parity_tolerance_nats: float = Field(0.3, gt=0)
    """Maximum mean difference, in nats a token, between the engine's and the trainer's log-probabilities of the parity
    items. Above it, the upload is refused. With one type of weights they differ by less than 0.01, between float32 and
    bfloat16 by 0.1 to 0.2; a trained adapter moves them by 1 to 3."""
    parity_tolerance_share: float = Field(0.25, gt=0, le=1)
    """Maximum mean difference, in log-odds a token, between the engine and the trainer, as a share of what the adapter
    changes. Above it, the upload is refused: the engine applies a part of the adapter, or too much of it. Half an
    adapter is at about 0.5, twice its effect at 1: from 0.4 on, they may pass. Default: decision 045. 358 kept versions
    were at most 0.074 apart, in log-probabilities."""
    parity_min_shift_nats: float = Field(0.02, ge=0)
    """Minimum mean difference, in nats a token, between the engine with and without the adapter. Below it, the engine
    seems not to apply the adapter, and the upload is refused."""
    parity_max_idle_wait_s: float = Field(1.0, ge=0)
    """Maximum seconds for which each step of a parity check, and of a prefetch, waits until no request is being
    answered. A parity check has at most eight steps with the trainer's defaults. The gate does not wait (decision
    019)."""
    prefetch_prefixes: bool = True
    """Compute the memory that all queries of a user share with a new version before it goes live. That is the profile,
    and with `recall=recency` also the engagements. With other kinds of `recall` and no profile, nothing is computed.
    Cached prefixes belong to one version, so the first request would otherwise wait for it."""
    prefetch_step_tokens: int = Field(128, ge=1)
    """Number of tokens that a prefetch computes in one step of the engine."""

    canary_share: float = Field(0.0, ge=0, lt=1)
    """Share of an adapter's requests that a new version answers as canary before it goes live. With 0, or without a
    live version, it goes live at once."""
    canary_requests: int = Field(50, ge=1)
    """Number of good answers after which the server makes a canary live. Good: neither collapsed nor failed."""
    health_window: int = Field(200, ge=1)
    """Number of newest answers by which a version in service is judged. Each server process counts its own."""
    health_min_answers: int = Field(20, ge=1)
    """Minimum number of answers with which a version in service is judged. With fewer, it is not withdrawn."""
    max_collapsed: float | None = Field(0.25, ge=0, le=1)
    """Maximum share of answers whose thinking collapses: it loops or is empty. Above it, the version is withdrawn with
    the failed check `service_collapsed`. `null` disables it."""
    max_failed: float | None = Field(0.1, ge=0, le=1)
    """Maximum share of answers that fail where the base model does not. Above it, the version is withdrawn with the
    failed check `service_failed`. `null` disables it."""

    adapter_wait_s: float = Field(20, gt=0)
    """Maximum seconds for which a request waits until its adapter is loaded. Then it is refused with 503."""
    keep_versions: int = Field(5, ge=1)
    """Number of newest versions of an adapter that keep their files. Refused versions are counted apart from those that
    passed. Pinned, live and canary versions always keep theirs."""
    export_base_model: str | None = Field(None, min_length=1)
    """Name of the base model in exported versions, for `AutoPeftModelForCausalLM`: a Hugging Face id, or a folder.
    Default: `model` if it is an id, else its folder on the server. Name an id before versions leave the machine: the
    folder is not there elsewhere, and tells where the server keeps its models."""
