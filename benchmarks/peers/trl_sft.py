"""TRL's `SFTTrainer` in a process of its own: one side of trainer.py.

Reads a line of JSON (`Job` of trainer.py), trains, answers with a line: seconds of the training loop, the loss of each
step, the peak of the process's memory.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
import warnings
from typing import Any


def main() -> None:
    """Read a job from stdin, train, and print the result as JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Whatever else is printed goes to the log.
    job = json.loads(sys.stdin.readline())
    print(json.dumps(train(job)), file=answers, flush=True)


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Train the job's rows, and return seconds of the loop, the loss of each step, and the peak memory."""
    warnings.simplefilter("ignore")
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(job["threads"])
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=getattr(torch, job["dtype"]))
    lora = LoraConfig(
        r=job["rank"],
        lora_alpha=job["alpha"],
        lora_dropout=0.0,
        target_modules=job["target_modules"],
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(job["seed"])  # For the adapter's first weights.
    adapted = get_peft_model(model, lora)
    rows = [
        {
            "input_ids": row["ids"],
            "completion_mask": [0] * row["prompt"] + [1] * (len(row["ids"]) - row["prompt"]),
        }
        for row in job["rows"]
    ]
    per_pass = job["sequences_a_pass"]
    losses: list[float] = []

    def loss_of(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        """Average each sequence's target, then the sequences of the step."""
        logits = outputs["logits"][:, :-1].float()
        wanted = labels[:, 1:]
        each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), wanted, ignore_index=-100, reduction="none")
        mean = each.sum(1) / (wanted != -100).sum(1)
        losses.append(float(mean.detach().sum()) / job["batch_size"])
        return mean.sum() / job["batch_size"]

    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            num_train_epochs=1,  # The rows come in order, epoch after epoch.
            per_device_train_batch_size=per_pass,
            gradient_accumulation_steps=job["batch_size"] // per_pass,
            learning_rate=job["learning_rate"],
            lr_scheduler_type="constant",
            weight_decay=job["weight_decay"],
            max_grad_norm=job["max_grad_norm"],
            max_length=None,
            completion_only_loss=True,
            packing=False,
            gradient_checkpointing=False,
            use_cpu=job["device"] == "cpu",
            bf16=False,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            seed=job["seed"],
            dataloader_pin_memory=False,
            disable_tqdm=True,
            train_sampling_strategy="sequential",
        )
        trainer = SFTTrainer(
            model=adapted,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            compute_loss_func=loss_of,
        )
        before = peak_mib()
        began = time.perf_counter()
        trainer.train()
        if job["device"] == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    passes = job["batch_size"] // per_pass
    steps = [sum(losses[start : start + passes]) for start in range(0, len(losses), passes)]
    return {"seconds": seconds, "losses": steps, "peak_mib": peak_mib(job["device"]), "before_mib": before}


def peak_mib(device: str = "cpu") -> float:
    """Return the peak memory of this process in MiB, on `cuda` that of the GPU."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
