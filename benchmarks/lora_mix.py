"""What does it cost to write for several adapters in one engine step?

The same number of sequences is written by the base model, with one adapter, and spread over fewer adapters than the
engine has slots, over as many, and over twice as many, in turn on one LoRA engine. Prompts are short, so nearly all
of the time is decoding. A sample of the requests is streamed: it gives the time to the first token under that load.
The adapters are random ones of rank 8 on all linear layers.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mindprint.local.console import Output
from mindprint.model_files import DEFAULT, resolve
from mindprint.types.keys import AdapterKey
from support.engine import run_engine
from support.exclusive import exclusive_turn
from support.harness import JsonFile, Quick, Report, Spread, alternate, measure, spread

if TYPE_CHECKING:
    from mindprint_server.engine import AdapterRef
    from mindprint_server.engine.vllm import VllmEngine

RANK = 8
SAMPLE = 4
"""One request in so many is streamed."""


@dataclass(frozen=True)
class WriteLoad:
    sequences: int
    tokens: int


@dataclass(frozen=True)
class MixRun:
    tokens_per_s: float
    first_token_s: list[float]


def main(
    json_file: JsonFile = None,
    quick: Quick = False,
    model: Annotated[str, typer.Option(help="A Hugging Face id, a folder, or `default`.")] = DEFAULT,
    slots: Annotated[int, typer.Option(min=2, help="Adapters in one engine step.")] = 4,
    sequences: Annotated[int, typer.Option(help="Requests under way at once; 0 for the default.")] = 0,
    tokens: Annotated[int, typer.Option(help="Tokens written by each request; 0 for the default.")] = 0,
    without_lora: Annotated[
        bool, typer.Option("--without-lora", help="Afterwards, base requests on an engine without LoRA support.")
    ] = False,
) -> None:
    from mindprint_server.settings import Settings

    load = WriteLoad(sequences or (8 if quick else 32), tokens or (16 if quick else 48))
    settings = Settings(model=model, max_loras=slots, max_cpu_loras=2 * slots, max_num_seqs=max(load.sequences, 8))

    async def work(out: Output, report: Report) -> None:
        with tempfile.TemporaryDirectory(prefix="mindprint-lora-") as folder:
            with out.bar("adapters", 2 * slots) as bar:
                adapters = await asyncio.to_thread(make_adapters, model, Path(folder), 2 * slots)
                bar.finish(f"{len(adapters)} made")
            async with run_engine(settings, out, report) as engine, exclusive_turn():
                for adapter in adapters:
                    await engine.load(adapter)
                await measure_mixes(out, report, Writing(engine, load), adapters, slots)
        if without_lora:
            async with run_engine(settings, out, report, lora=False) as engine, exclusive_turn():
                await measure_without_lora(out, report, Writing(engine, load))

    takes = "about a minute" if quick else "about six minutes on two cores"
    measure(__doc__, takes + (", and one more for the engine without LoRA" if without_lora else ""), json_file, work)


async def measure_mixes(
    out: Output, report: Report, writing: Writing, adapters: Sequence[AdapterRef], slots: int
) -> None:
    counts = [0, *sorted({1, slots // 2, slots, 2 * slots})]

    def side(count: int) -> Callable[[], Coroutine[Any, Any, MixRun]]:
        return lambda: writing.run(adapters[:count])

    with out.bar("requests", 4 * len(counts)) as bar:
        runs = await alternate(
            {f"{count} adapters": side(count) for count in counts}, tell=lambda note: bar.update(bar.done + 1, note)
        )
        bar.finish("measured")
    speeds: dict[int, Spread] = {}
    for count, results in zip(counts, runs.values(), strict=True):
        speeds[count] = spread(run.tokens_per_s for run in results)
        add_row(report, "LoRA", count, slots, writing, results, speeds[count].median / speeds[0].median)
    report.bar(f"tokens/s, {slots} adapters over 1", speeds[slots].median / speeds[1].median, at_least=0.8)


async def measure_without_lora(out: Output, report: Report, writing: Writing) -> None:
    """Add a separate row: this engine ran after the other one, not in turn with it."""
    with out.bar("requests without LoRA support", 4) as bar:
        runs = await alternate({"base": lambda: writing.run(())}, tell=lambda note: bar.update(bar.done + 1, note))
        bar.finish("measured")
    add_row(report, "no LoRA, run after", 0, 0, writing, runs["base"], None)


def add_row(
    report: Report,
    engine: str,
    adapters: int,
    slots: int,
    writing: Writing,
    runs: Sequence[MixRun],
    of_base: float | None,
) -> None:
    first = sorted(1000 * seconds for run in runs for seconds in run.first_token_s)
    report.row(
        engine=engine,
        adapters=adapters,
        slots=slots,
        sequences=writing.load.sequences,
        device=str(report.machine["device"]),
        tokens_per_s=spread(run.tokens_per_s for run in runs),
        of_base=of_base,
        first_token_p50_ms=quantile(first, 0.5),
        first_token_p99_ms=quantile(first, 0.99),
        streamed=len(first),
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that `share` of all do not exceed."""
    return ordered[max(0, -(-len(ordered) * round(share * 100) // 100) - 1)]


@dataclass
class Writing:
    """Writes one load on one engine."""

    engine: VllmEngine
    load: WriteLoad

    def __post_init__(self) -> None:
        self._ids = itertools.count()

    async def run(self, adapters: Sequence[AdapterRef]) -> MixRun:
        """All sequences at once, the adapters in turn; without adapters the base model writes."""
        numbers = range(self.load.sequences)
        streamed = set(random.Random(next(self._ids)).sample(numbers, max(1, len(numbers) // SAMPLE)))
        chosen = [adapters[n % len(adapters)] if adapters else None for n in numbers]
        began = time.perf_counter()
        first = await asyncio.gather(*(self._write(n, chosen[n], stream=n in streamed) for n in numbers))
        seconds = time.perf_counter() - began
        return MixRun(
            self.load.sequences * self.load.tokens / seconds, [s for n, s in enumerate(first) if n in streamed]
        )

    async def _write(self, number: int, adapter: AdapterRef | None, *, stream: bool) -> float:
        """Return the seconds until the first output: of a streamed request, the first token."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        from mindprint_server.engine.vllm_lora import lora_request

        params = SamplingParams(
            max_tokens=self.load.tokens,
            temperature=0.0,
            ignore_eos=True,
            output_kind=RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY,
        )
        prompt = self.engine.tokenizer.encode(f"A letter from traveller number {number} to a friend at home:")
        began, first = time.perf_counter(), 0.0
        # As the server does: more adapters than slots wait here, and their wait counts.
        async with self.engine.slots.acquire(adapter):
            outputs = self.engine.llm.generate(
                {"prompt_token_ids": prompt},
                params,
                request_id=f"mix-{next(self._ids)}",
                lora_request=lora_request(adapter) if adapter else None,
            )
            async for _ in outputs:
                first = first or time.perf_counter() - began
        return first


def make_adapters(model: str, folder: Path, count: int) -> list[AdapterRef]:
    """Random PEFT adapters: the model's shape is wrapped once, without its weights, and each gets noise of its own."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    from mindprint_server.engine import AdapterRef
    from mindprint_server.settings import Settings

    targets = list(Settings.model_fields["target_modules"].default)
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=targets, base_model_name_or_path="base")
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(resolve(model)))
        wrapped = get_peft_model(base, config)
    shapes = {n.replace(".default", ""): w.shape for n, w in wrapped.named_parameters() if "lora_" in n}
    config.inference_mode = True
    made = []
    for number in range(1, count + 1):
        noise = torch.Generator().manual_seed(number)
        tensors = {n: (torch.randn(shape, generator=noise) * 0.02).bfloat16() for n, shape in shapes.items()}
        path = folder / str(number)
        config.save_pretrained(path)
        save_file(tensors, path / "adapter_model.safetensors", metadata={"format": "pt"})
        made.append(AdapterRef(AdapterKey.user(str(number)), 1, f"random {number}", number, path))
    return made


if __name__ == "__main__":
    typer.run(main)
