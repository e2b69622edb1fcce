"""The wire types: requests and replies between application, server and trainer.

Requests refuse unknown fields, so that a misspelt one is an error. Replies ignore unknown fields, so that a client
works with a newer server. Times are UTC, log-probabilities natural (nats), lengths in tokens of the base model.
"""

from __future__ import annotations

from mindprint.types.adapters import Adapter, Pin, Promote, SetCanary
from mindprint.types.api_keys import (
    DEFAULT_TENANT,
    SCOPES,
    ApiKey,
    ApiKeyPage,
    CreateApiKey,
    CreatedApiKey,
    RotateApiKey,
    Scope,
    TenantName,
)
from mindprint.types.audit import AuditEvent, AuditPage
from mindprint.types.auto_mode import AskedMode, AutoModeDecision, AutoModeDecisions, AutoModeReason, Mode, QueryKind
from mindprint.types.base import NO_NUL, Choice, Choices, EngagementId, Reply, Request, ScoreName, Text, Time, as_utc
from mindprint.types.batches import Batch, BatchRequest, BatchState, Funnel
from mindprint.types.cohorts import EVERYONE, Cohort, CohortEdit, Members
from mindprint.types.erasures import Erasure, ErasureKind, ErasurePage, ErasureState, Receipt
from mindprint.types.errors import ErrorBody, ErrorReply
from mindprint.types.imported_traces import ImportedTrace, ImportedTraces
from mindprint.types.keys import (
    NAME,
    AdapterKey,
    AdapterKeyStr,
    MemoryNameStr,
    ModelName,
    ModelNameStr,
    Name,
    VersionRef,
)
from mindprint.types.leases import Heartbeat, Lease, LeaseRequest, LeaseState, Sample, Start
from mindprint.types.manifests import Manifest, ParityItem, ParityResult
from mindprint.types.openai import ChatChoice, ChatCompletion, ChatDelta, ChatMessage, ChatUsage, ModelEntry, ModelList
from mindprint.types.pages import AdapterPage, BatchPage, CohortPage, EngagementPage, TracePage, UserPage
from mindprint.types.publications import Publication, PublicationState
from mindprint.types.server import LoraLimits, ServerInfo, SystemInfo
from mindprint.types.traces import (
    CORRECT_ANSWER_REASONS,
    REASON_GROUPS,
    SCORE_REASONS,
    Provenance,
    Reason,
    Requeue,
    Requeued,
    Trace,
    TraceRequest,
    TraceState,
    VerdictLabel,
)
from mindprint.types.users import Engagement, EngagementBatch, Ingested, Profile, User
from mindprint.types.versions import Check, LearnedFrom, Lineage, Version, VersionState

__all__ = [
    "CORRECT_ANSWER_REASONS",
    "DEFAULT_TENANT",
    "EVERYONE",
    "NAME",
    "NO_NUL",
    "REASON_GROUPS",
    "SCOPES",
    "SCORE_REASONS",
    "Adapter",
    "AdapterKey",
    "AdapterKeyStr",
    "AdapterPage",
    "ApiKey",
    "ApiKeyPage",
    "AskedMode",
    "AuditEvent",
    "AuditPage",
    "AutoModeDecision",
    "AutoModeDecisions",
    "AutoModeReason",
    "Batch",
    "BatchPage",
    "BatchRequest",
    "BatchState",
    "ChatChoice",
    "ChatCompletion",
    "ChatDelta",
    "ChatMessage",
    "ChatUsage",
    "Check",
    "Choice",
    "Choices",
    "Cohort",
    "CohortEdit",
    "CohortPage",
    "CreateApiKey",
    "CreatedApiKey",
    "Engagement",
    "EngagementBatch",
    "EngagementId",
    "EngagementPage",
    "Erasure",
    "ErasureKind",
    "ErasurePage",
    "ErasureState",
    "ErrorBody",
    "ErrorReply",
    "Funnel",
    "Heartbeat",
    "ImportedTrace",
    "ImportedTraces",
    "Ingested",
    "LearnedFrom",
    "Lease",
    "LeaseRequest",
    "LeaseState",
    "Lineage",
    "LoraLimits",
    "Manifest",
    "Members",
    "MemoryNameStr",
    "Mode",
    "ModelEntry",
    "ModelList",
    "ModelName",
    "ModelNameStr",
    "Name",
    "ParityItem",
    "ParityResult",
    "Pin",
    "Profile",
    "Promote",
    "Provenance",
    "Publication",
    "PublicationState",
    "QueryKind",
    "Reason",
    "Receipt",
    "Reply",
    "Request",
    "Requeue",
    "Requeued",
    "RotateApiKey",
    "Sample",
    "Scope",
    "ScoreName",
    "ServerInfo",
    "SetCanary",
    "Start",
    "SystemInfo",
    "TenantName",
    "Text",
    "Time",
    "Trace",
    "TracePage",
    "TraceRequest",
    "TraceState",
    "User",
    "UserPage",
    "VerdictLabel",
    "Version",
    "VersionRef",
    "VersionState",
    "as_utc",
]
