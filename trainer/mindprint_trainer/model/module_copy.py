"""Copies of a model that share its weights."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any


def copy_modules(model: Any) -> Any:
    """Copy a model's modules and its configuration. The copy shares the weights and buffers.

    Args:
        model: A transformers model.
    """
    known: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    # Each module has eleven tables of hooks, nearly all empty: copying them one by one takes most of the time.
    known |= {
        id(table): OrderedDict()
        for module in model.modules()
        for table in vars(module).values()
        if type(table) is OrderedDict and not table
    }
    return copy.deepcopy(model, known)
