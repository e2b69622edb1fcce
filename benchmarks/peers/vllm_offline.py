"""Offline `LLM.generate` in a process of its own, asked over its standard input: one side of throughput.py.

Reads lines of JSON: first the engine arguments, then, for each round, prompts and sampling. Answers each with a line.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def main() -> None:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed goes to the log
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import RepetitionDetectionParams

    llm = LLM(**json.loads(sys.stdin.readline()))

    def params(asked: dict[str, Any]) -> Any:
        loops = asked.pop("loops", None)
        return SamplingParams(**asked, repetition_detection=RepetitionDetectionParams(**loops) if loops else None)

    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        prompts = [{"prompt_token_ids": ids} for ids in asked["prompts"]]
        sampling = [params(one) for one in asked["sampling"]]
        llm.reset_prefix_cache()  # some prompts come twice: alone, and among all that Mindprint asked
        began = time.perf_counter()
        outputs = llm.generate(prompts, sampling, use_tqdm=False)
        seconds = time.perf_counter() - began
        texts = [output.outputs[0].text for output in outputs]
        tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
        print(json.dumps({"seconds": seconds, "tokens": tokens, "texts": texts}), file=answers, flush=True)


if __name__ == "__main__":
    main()
