"""Plans for an answer, in the order in which they are tried: as asked first, the base model's direct answer last. Pure.

The thinking and the answer of one reply come from the same plan, and so from the same model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mindprint.types import Mode
from mindprint_server.engine import AdapterRef, EngineDied, PromptTooLong
from mindprint_server.exceptions import ServerError


@dataclass(frozen=True)
class AnswerPlan:
    """One way to answer.

    Attributes:
        adapter: The version that thinks and answers; None is the base model.
        mode: Mode of the answer.
        fallback: `base`: the base model in the mode that was asked for. `direct`: the base model without thinking.
            None: as asked.
    """

    adapter: AdapterRef | None
    mode: Mode
    fallback: Literal["base", "direct"] | None = None


def fallback_plans(mode: Mode, adapter: AdapterRef | None) -> list[AnswerPlan]:
    """List the plans for an answer, in the order in which they are tried.

    Args:
        mode: The mode that was asked for.
        adapter: The version that should answer; None is the base model.

    Returns:
        The plan as asked, then the base model in the same mode, then the base model without thinking.
    """
    plans = [AnswerPlan(adapter, mode)]
    if adapter is not None:
        plans.append(AnswerPlan(None, mode, "base"))
    if mode != "direct":
        plans.append(AnswerPlan(None, "direct", "direct"))
    return plans


def is_adapter_fault(error: Exception) -> bool:
    """Return whether an error may be the fault of the version, so that the base model may do better."""
    if isinstance(error, ServerError):
        return error.is_server_fault
    return not isinstance(error, EngineDied | PromptTooLong | TimeoutError)
