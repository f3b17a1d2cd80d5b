"""Train in the ways that the benchmarks compare: with this project, the stock Trainer, and as notebooks do."""

import argparse
import copy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import cycle
from pathlib import Path

import torch
import transformers
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import DataCollatorForLanguageModeling, PreTrainedModel, PrinterCallback, Trainer, TrainerCallback

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cloze.config.arguments import ModelArguments, TrainingArguments  # noqa: E402
from cloze.config.data_arguments import DataTrainingArguments, PretrainingDataArguments  # noqa: E402
from cloze.data.splits import DatasetSplits  # noqa: E402
from cloze.models.flops import Flops, count_flops, peak_flops  # noqa: E402
from cloze.models.loading import load_model  # noqa: E402
from cloze.objectives.task import Task  # noqa: E402
from cloze.tasks.masked_lm import MASKED_LM  # noqa: E402
from cloze.tasks.pretraining import PRETRAINING  # noqa: E402
from cloze.training.context import RunContext, set_up  # noqa: E402
from cloze.training.run import make_trainer  # noqa: E402
from cloze.training.throughput import ThroughputMeter  # noqa: E402
from cloze.training.trainer import PretrainingTrainer  # noqa: E402

# More steps than any turn takes.
MANY = 1_000_000

# Model sizes, with BERT's vocabulary of 30,522. "micro" only tests that a benchmark runs.
SIZES = {
    "micro": "hidden_size=32,num_hidden_layers=2,num_attention_heads=2,intermediate_size=64,vocab_size=12000",
    "tiny": "hidden_size=128,num_hidden_layers=2,num_attention_heads=2,intermediate_size=512",
    "small": "hidden_size=512,num_hidden_layers=4,num_attention_heads=8,intermediate_size=2048",
    "bert-base": "hidden_size=768,num_hidden_layers=12,num_attention_heads=12,intermediate_size=3072",
}


@dataclass(frozen=True)
class Work:
    """A task with its data settings.

    Attributes:
        data: class of the data settings; ``settings`` are those that differ from its defaults.
        make_stock_examples: makes the examples of the stock Trainer.
    """

    task: Task
    data: type
    max_seq_length: int
    make_stock_examples: Callable[["Bench"], list[dict]]
    settings: dict = field(default_factory=dict)


@dataclass
class Bench:
    """A model and its training examples."""

    work: Work
    context: RunContext
    splits: DatasetSplits
    model: PreTrainedModel
    flops: Flops

    @cached_property
    def stock_examples(self) -> list[dict]:
        return self.work.make_stock_examples(self)


def join_and_cut(bench: Bench) -> list[dict]:
    """Join texts and cut them into blocks; drop the rest."""
    length = bench.work.max_seq_length
    joined = [token for ids in bench.context.tokenizer(lines_of(bench))["input_ids"] for token in ids]
    return [{"input_ids": joined[i : i + length]} for i in range(0, len(joined) - length + 1, length)]


def truncate_lines(bench: Bench) -> list[dict]:
    """Truncate lines at the maximum length."""
    rows = bench.context.tokenizer(lines_of(bench), truncation=True, max_length=bench.work.max_seq_length)
    return [{"input_ids": ids} for ids in rows["input_ids"]]


def lines_of(bench: Bench) -> list[str]:
    return [line for document in bench.context.corpora.all[0].documents() for line in document]


def our_pairs(bench: Bench) -> list[dict]:
    """Return the pairs that our side trains on."""
    pairs = (bench.splits.train[0, number] for number in range(len(bench.splits.train)))
    return [{key: pair[key] for key in ("input_ids", "token_type_ids", "next_sentence_label")} for pair in pairs]


WORKS = {
    "blocks-128": Work(MASKED_LM, DataTrainingArguments, 128, join_and_cut),
    "blocks-512": Work(MASKED_LM, DataTrainingArguments, 512, join_and_cut),
    "lines": Work(MASKED_LM, DataTrainingArguments, 256, truncate_lines, {"line_by_line": True}),
    "pairs": Work(PRETRAINING, PretrainingDataArguments, 512, our_pairs, {"pair_strategy": "sentence"}),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--text", default=str(ROOT / "sample"), help="text file or folder")
    parser.add_argument("--tokenizer_name", help="default: a tokenizer trained on the text")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--stock_batch_size", type=int, help="batch size of the stock Trainer (default: --batch_size)")
    parser.add_argument(
        "--max_tokens_per_batch", type=int, default=1024, help="token budget of our batches of lines and pairs"
    )
    parser.add_argument("--dropout", type=float, default=0.1, help="dropout of all sides")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--no_tf32", dest="tf32", action="store_false", help="disable TF32 for float32 on a GPU")
    parser.add_argument("--torch_compile_backend", help="for example inductor (not for notebooks)")
    parser.add_argument("--workers", type=int, default=0, help="data-loader workers (not for notebooks)")


def make_bench(name: str, size: str, args, folder: str) -> Bench:
    """Return a model of a size and its examples; ``args`` are the arguments of ``add_arguments``."""
    work = WORKS[name]
    model_args = ModelArguments(
        model_type="bert",
        config_overrides=f"vocab_size=30522,{SIZES[size]},"
        f"hidden_dropout_prob={args.dropout},attention_probs_dropout_prob={args.dropout}",
        tokenizer_name=args.tokenizer_name,
        do_lower_case=True,
    )
    data_args = work.data(train_file=[args.text], max_seq_length=work.max_seq_length, **work.settings)
    training_args = TrainingArguments(
        output_dir=folder,
        do_train=True,
        per_device_train_batch_size=args.batch_size,
        # All blocks have the same length.
        max_tokens_per_batch=None if name.startswith("blocks") else args.max_tokens_per_batch,
        **common_arguments(args),
    )
    context = set_up(work.task, model_args, data_args, training_args)
    splits = work.task.make_splits(context)
    model = load_model(model_args, context.config, work.task, training_args.seed)
    spared = copy.deepcopy(model)
    work.task.prepare_model(spared, work.max_seq_length)
    return Bench(work, context, splits, model, count_flops(spared, work.task.takes_positions))


def common_arguments(args) -> dict:
    return {
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": args.device == "cpu",
        "bf16": args.bf16,
        "tf32": args.tf32 if args.device == "cuda" and not args.bf16 else None,
        "optim": "adamw_torch_fused",
        "torch_compile_backend": args.torch_compile_backend,
        "dataloader_num_workers": args.workers,
    }


class Clock(TrainerCallback):
    """Measure turns of at least ``seconds`` each, after some warm-up steps.

    Attributes:
        turns: the meter's figures for each turn.
        warm_up_seconds: duration of the warm-up steps, including compilation.
    """

    def __init__(self, meter: ThroughputMeter, args, seconds: float, turns: int = 1, warm_up: int = 1):
        self.meter, self.accelerator, self.step = meter, Accelerator(cpu=args.device == "cpu"), 0
        self.seconds, self.num_turns, self.warm_up = seconds, turns, warm_up
        self.turns, self.start = [], time.perf_counter()

    @property
    def done(self) -> bool:
        return len(self.turns) == self.num_turns

    def on_train_begin(self, args, state, control, **kwargs):
        self.start = time.perf_counter()

    def on_step_end(self, args=None, state=None, control=None, **kwargs):
        self.step += 1
        if self.step == self.warm_up:
            self.before = self.meter.totals(self.accelerator)  # waits for the device
            self.warm_up_seconds = time.perf_counter() - self.start
            self.start = time.perf_counter()
        elif self.step > self.warm_up and time.perf_counter() - self.start >= self.seconds:
            totals = self.meter.totals(self.accelerator)
            self.turns.append(self.meter.rates(totals - self.before, time.perf_counter() - self.start, 1))
            self.before, self.start = totals, time.perf_counter()
        if control is not None:
            control.should_training_stop = self.done


def train_ours(bench: Bench, model: PreTrainedModel, args, seconds: float, seed: int, turns=1, warm_up=1, **training):
    trainer = our_trainer(bench, model, seed=seed, max_steps=MANY, **training)
    return run(trainer, Clock(trainer.meter, args, seconds, turns, warm_up))


def our_trainer(bench: Bench, model: PreTrainedModel, **training) -> PretrainingTrainer:
    """Return the trainer of run_mlm.py and run_pretraining.py."""
    training_args = copy.deepcopy(bench.context.training_args)
    for name, value in training.items():
        setattr(training_args, name, value)
    return make_trainer(replace(bench.context, training_args=training_args), model, bench.splits)


def train_stock(bench: Bench, model: PreTrainedModel, args, seconds: float, seed: int, turns=1, warm_up=1, **training):
    trainer = stock_trainer(bench, model, args, seed=seed, max_steps=MANY, **training)
    clock = Clock(stock_meter(bench.flops, args), args, seconds, turns, warm_up)
    trainer.compute_loss = counted(trainer.compute_loss, clock.meter)
    return run(trainer, clock)


def stock_trainer(bench: Bench, model: PreTrainedModel, args, **training) -> Trainer:
    """Return the trainer of upstream's run_mlm.py: its collator, random batches, the loss that the model returns."""
    training = {"per_device_train_batch_size": args.stock_batch_size or args.batch_size} | training
    training_args = transformers.TrainingArguments(
        output_dir=bench.context.training_args.output_dir, **common_arguments(args) | training
    )
    collator = DataCollatorForLanguageModeling(bench.context.tokenizer, mlm_probability=0.15)
    return Trainer(model, training_args, data_collator=collator, train_dataset=bench.stock_examples)


def stock_meter(flops: Flops | None, args) -> ThroughputMeter:
    """Return a meter that counts only the operations that the loss needs, to make MFU comparable."""
    device, dtype = torch.device(args.device), torch.bfloat16 if args.bf16 else torch.float32
    return ThroughputMeter(flops, peak_flops(device, dtype), device)


def counted(compute_loss: Callable, meter: ThroughputMeter) -> Callable:
    """Count each batch whose loss is computed, outside the model, which may be compiled."""

    def compute_and_count(model, inputs, *args, **kwargs):
        meter.add(inputs)
        return compute_loss(model, inputs, *args, **kwargs)

    return compute_and_count


def run(trainer: Trainer, clock: Clock) -> Clock:
    trainer.add_callback(clock)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return clock


def train_notebook(bench: Bench, model: PreTrainedModel, args, seconds: float, seed: int) -> Clock:
    """Train as notebooks do: examples padded to the maximum length, masks drawn once, a plain loop."""
    tokenizer = bench.context.tokenizer
    torch.manual_seed(seed)
    rows = bench.stock_examples
    chosen = [rows[number] for number in torch.randperm(len(rows)).tolist()]
    inputs = tokenizer.pad(chosen, padding="max_length", max_length=bench.work.max_seq_length, return_tensors="pt")
    inputs["labels"] = inputs["input_ids"].clone()
    special = torch.isin(inputs["input_ids"], torch.tensor(tokenizer.all_special_ids))
    inputs["input_ids"][(torch.rand(special.shape) < 0.15) & ~special] = tokenizer.mask_token_id
    examples = [{name: values[row] for name, values in inputs.items()} for row in range(len(chosen))]
    model.to(args.device).train()
    # Without MFU, because its labels are all tokens, including padding.
    clock = Clock(stock_meter(None, args), args, seconds)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
    batches = cycle(DataLoader(examples, batch_size=args.batch_size))
    while not clock.done:
        batch = next(batches)
        clock.meter.add(batch)
        optimizer.zero_grad()
        with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
            loss = model(**{name: values.to(args.device) for name, values in batch.items()}).loss
        loss.backward()
        optimizer.step()
        clock.on_step_end()
    return clock


SIDES = {"ours": train_ours, "stock": train_stock, "notebook": train_notebook}
