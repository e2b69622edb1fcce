"""Ends a process of the engine when the process that started it is gone, and keeps Ctrl-C from it.

vLLM calls `vllm_plugin` in each of its processes (entry point `vllm.general_plugins`). The engine core is a child of
the server, and a worker a child of the core. vLLM itself ends the core only in an orderly shutdown of the server: after
a SIGKILL the core would keep its memory for good.
"""

from __future__ import annotations

import multiprocessing
import os
import threading

WATCH = "_MINDPRINT_WATCH_PARENT"
"""Environment variable that the server sets for its engine. Other users of vLLM do not set it."""
PARENT_GONE = 1
"""Exit code of a process whose parent is gone."""


def vllm_plugin() -> None:
    """Watch the parent of this process, if the engine of a server started it."""
    if os.environ.get(WATCH):
        end_with_parent()


def end_with_parent() -> threading.Thread | None:
    """Start a thread that ends this process at once when its parent is gone; None in a process without a parent.

    Only `multiprocessing` starts processes that know their parent. The process also leaves its parent's process group:
    a terminal sends Ctrl-C to all of a group, and vLLM's core then ends at once, under the answers that still run.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return None
    os.setpgrp()

    def wait() -> None:
        parent.join()
        os._exit(PARENT_GONE)

    thread = threading.Thread(target=wait, name="parent-watch", daemon=True)
    thread.start()
    return thread
