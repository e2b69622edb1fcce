"""A check of schemathesis: what the schema allows is accepted, but for rules that a schema cannot say.

Each rule is here with the reason why the schema does not have it. Any other refusal of valid data is a failure.
"""

from __future__ import annotations

from typing import Any

import schemathesis
from schemathesis.checks import positive_data_acceptance
from schemathesis.core.failures import Failure

RULES: dict[str, dict[str, str]] = {
    "POST /v1/batches": {
        "unhinted=0 shows the writer the answer": "`unhinted` depends on `hints` and `mode`",
    },
    "POST /v1/traces": {
        "send either engagement_id or query": "exactly one of two fields",
        "come with query": "fields that only a query may have",
        "target is not among the choices": "`target` depends on `choices`",
        "mode auto needs the user's own memory": "`mode` depends on `memory` and `thinking`",
        "mode direct has no thinking": "`thinking` depends on `mode`",
        "thinking is given, so none is generated": "`thinking` excludes the fields of sampling",
        "choices_alike": "choices that the served model's tokenizer cannot tell apart",
    },
    "POST /v1/responses": {
        "send functions": "`tools` of other types than `function`, which OpenAI has and this server has not",
    },
    "POST /v1/traces/requeue": {
        "send either trace_ids or user_id": "at most one of two fields",
    },
    "POST /v1/users/{user_id}/engagements": {
        "is not among the choices": "`response` depends on `choices`",
    },
    "DELETE /v1/users/{user_id}/engagements": {
        "neither after nor before is given": "at least one of two fields",
    },
    "POST /v1/users/{user_id}/traces": {
        "is blank": "a text of white space or special tokens only",
        "holds a tag or a special token": "the served model decides which tokens are special",
        "do not fit the model together": "the served model decides how long a prompt may be",
    },
    "POST /v1/leases/{lease_id}/complete": {
        "invalid_json": "the part `manifest` is a text: the schema does not say that it holds JSON",
        "invalid_manifest": "nor what that JSON is",
    },
}
"""By operation: words of the message or its code, and why the schema does not say the rule."""


@schemathesis.check
def valid_data_acceptance(ctx: Any, response: Any, case: Any) -> bool | None:
    """Fail if valid data is refused by no known rule."""
    try:
        positive_data_acceptance(ctx, response, case)
    except Failure:
        rules = RULES.get(case.operation.label, {})
        if not any(words in response.text for words in rules):
            raise
    return None
