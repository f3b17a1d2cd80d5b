#!/usr/bin/env python
"""Real tokens a second of masked-token and sentence-pair training: run_pretraining.py's way and the notebooks' way.

    python benchmarks/throughput.py --text corpus.txt --model_name_or_path bert-base-uncased

The notebooks' way pads every pair to 512 tokens, masks once for all epochs, and takes the loss that the model returns.
Both sides train the same model on the same pairs, a few steps in turn, in one process; padding does not count. Prints
a table of medians, and a line of JSON.
"""

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, PrinterCallback, set_seed

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cloze.arguments import ModelArguments, TrainingArguments  # noqa: E402
from cloze.batching import EpochExamples  # noqa: E402
from cloze.data_arguments import PretrainingDataArguments  # noqa: E402
from cloze.examples import ExampleSets  # noqa: E402
from cloze.modeling import load_model  # noqa: E402
from cloze.pair_examples import make_pairs  # noqa: E402
from cloze.setup import Setup, set_up  # noqa: E402
from cloze.tasks import PRETRAINING  # noqa: E402
from cloze.training import make_trainer  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--text", default=str(ROOT / "sample"), help="text, as run_pretraining.py takes it")
    parser.add_argument("--pair_strategy", default="sentence", choices=["segment", "sentence"])
    parser.add_argument("--max_seq_length", type=int, default=512, help="what the notebooks pad to")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2, help="optimizer steps a turn")
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    set_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        setup = set_up_training(args, folder)
        sets = make_pairs(setup)
        pairs = sets.train
        model = load_model(setup.model_args, setup.config, PRETRAINING)
        sides = {"ours": our_way(setup, sets), "notebook": notebook_way(args, setup.tokenizer, pairs)}
        speeds = {name: [] for name in sides}
        for _ in range(args.turns):
            for name, train in sides.items():
                start = time.perf_counter()
                tokens = train(copy.deepcopy(model))
                speeds[name].append(tokens / (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    print("side     | real tokens/s | slowest | fastest | times the notebook's")
    for name, values in speeds.items():
        ratio = medians[name] / medians["notebook"]
        print(f"{name:<8} | {medians[name]:13,.1f} | {min(values):7,.1f} | {max(values):7,.1f} | {ratio:.2f}")
    print(
        json.dumps({"threads": torch.get_num_threads(), "pairs": len(pairs), **vars(args), "tokens_per_second": speeds})
    )


def set_up_training(args, folder: str) -> Setup:
    model_args = ModelArguments(model_name_or_path=args.model_name_or_path)
    data_args = PretrainingDataArguments(
        train_file=[args.text], pair_strategy=args.pair_strategy, max_seq_length=args.max_seq_length
    )
    training_args = TrainingArguments(
        output_dir=folder,
        do_train=True,
        per_device_train_batch_size=args.batch_size,
        max_steps=args.steps,
        save_strategy="no",
        logging_strategy="no",
        logging_first_step=False,
        disable_tqdm=True,
    )
    return set_up(PRETRAINING, model_args, data_args, training_args)


def our_way(setup: Setup, sets: ExampleSets):
    """A function that trains a model for some steps as run_pretraining.py does; it gives real tokens."""

    def train(model) -> int:
        trainer = make_trainer(replace(setup, training_args=copy.deepcopy(setup.training_args)), model, sets)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return int(trainer.real_tokens)

    return train


def notebook_way(args, tokenizer: PreTrainedTokenizerBase, pairs: EpochExamples):
    """A function that trains a model for some steps as the notebooks do; it gives real tokens."""
    rng = np.random.default_rng(0)
    chosen = [pairs[0, int(number)] for number in rng.permutation(len(pairs))[: args.steps * args.batch_size]]
    texts = [split(pair, tokenizer) for pair in chosen]
    inputs = tokenizer(
        [a for a, _ in texts],
        [b for _, b in texts],
        max_length=args.max_seq_length,
        truncation=True,
        padding="max_length",
        return_tensors="pt",
    )
    inputs["labels"] = inputs["input_ids"].clone()
    special = torch.isin(inputs["input_ids"], torch.tensor(tokenizer.all_special_ids))
    inputs["input_ids"][(torch.rand(special.shape) < 0.15) & ~special] = tokenizer.mask_token_id
    inputs["next_sentence_label"] = torch.tensor([pair["next_sentence_label"] for pair in chosen])
    rows = [{name: values[row] for name, values in inputs.items()} for row in range(len(chosen))]

    def train(model) -> int:
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
        tokens = 0
        for batch in DataLoader(rows, batch_size=args.batch_size, shuffle=True):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
            tokens += int(batch["attention_mask"].sum())
        return tokens

    return train


def split(pair: dict, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    types = pair["token_type_ids"]
    return tuple(tokenizer.decode(pair["input_ids"][types == kind], skip_special_tokens=True) for kind in (0, 1))


if __name__ == "__main__":
    main()
