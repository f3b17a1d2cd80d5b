"""Test that a new objective needs one module, as in cloze/tasks, and one script: detecting replaced tokens."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForTokenClassification, AutoTokenizer, Trainer
from transformers.models.auto.modeling_auto import MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES

from cloze.config.arguments import ModelArguments, TrainingArguments
from cloze.config.data_arguments import BlockArguments
from cloze.data.blocks import BlockBuilder
from cloze.data.collators import IGNORED, Padding, as_tensors, example_rng, pad
from cloze.data.context import DataContext
from cloze.data.splits import DatasetSplits, make_splits
from cloze.objectives.metrics import Objective, Scores, score_tokens, summarise_tokens
from cloze.objectives.task import Task
from cloze.reporting.summary import finish
from cloze.training.context import set_up
from cloze.training.run import run, start
from tests.utils import driver

# The module


@dataclass
class ReplacedArguments(BlockArguments):
    """The data of the script."""

    metrics: ClassVar[tuple[str, ...]] = ("loss", "accuracy")


def score_replaced(logits: torch.Tensor, batch: dict[str, torch.Tensor], label_smoothing: float = 0.0) -> Scores:
    """Return each example's summed cross-entropy over its tokens, their count, and the hits."""
    everywhere = torch.arange(batch["replaced"].numel())
    tokens = batch | {"labels": batch["replaced"], "masked_positions": everywhere}
    return score_tokens(logits.flatten(0, 1)[None], tokens, label_smoothing)


def summarise_replaced(scores: dict[str, np.ndarray]) -> dict[str, float]:
    metrics = summarise_tokens(scores)
    return {"loss": metrics["loss"], "accuracy": metrics["accuracy"], "tokens": metrics["masked_tokens"]}


def replace_tokens(
    examples: list[dict], pad_id: int, padding: Padding, seed: int, size: int
) -> dict[str, torch.Tensor]:
    """Replace a third of the tokens at random, by (seed, epoch, example)."""
    batch = pad(examples, pad_id, padding)
    batch["replaced"] = np.where(batch["attention_mask"] == 1, 0, IGNORED)
    for row, example in enumerate(examples):
        rng, length = example_rng(seed, example.get("epoch"), example["example"]), len(example["input_ids"])
        places = np.flatnonzero(rng.random(length) < 1 / 3)
        batch["input_ids"][row, places] = rng.integers(size, size=len(places))
        batch["replaced"][row, places] = 1
    return as_tensors(batch, padding)


class ReplacedTokens(Task):
    """Predict which tokens were replaced."""

    title = "replaced token detector"
    head = "token-classification head"
    auto_model = AutoModelForTokenClassification
    model_types = tuple(MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES)
    instead = "use an encoder such as bert"
    objectives: ClassVar = {
        "": Objective(
            "replaced",
            ("logits",),
            score_replaced,
            summarise_replaced,
            (("loss of replaced tokens", "loss", ".3f"), ("accuracy", "accuracy", ".1%")),
        )
    }
    pipeline_tag = "token-classification"

    def make_splits(self, context: DataContext) -> DatasetSplits:
        return make_splits(context, BlockBuilder(context.tokenizer, context.max_seq_length, context.data_args))

    def make_collator(self, context: DataContext, padding: Padding, seed: int):
        pad_id, size = context.tokenizer.pad_token_id, len(context.tokenizer)
        return partial(replace_tokens, pad_id=pad_id, padding=padding, seed=seed, size=size)

    @torch.no_grad()
    def predict_samples(self, trainer: Trainer, samples: Sequence[dict]) -> dict[str, list[str]]:
        ids = torch.tensor(samples[0]["input_ids"])[None]
        found = trainer.model.eval()(input_ids=ids.to(trainer.model.device)).logits[0].argmax(-1)
        return {"Replaced tokens found in a text": [f"{int(found.sum())} of {ids.numel()}"]}


REPLACED_TOKENS = ReplacedTokens()

# The script


def main(model_args: ModelArguments, data_args: ReplacedArguments, training_args: TrainingArguments) -> None:
    context = set_up(REPLACED_TOKENS, model_args, data_args, training_args)
    splits = REPLACED_TOKENS.make_splits(context)
    trainer = start(context, splits)
    if trainer is None:
        return
    metrics = run(trainer, context)
    finish(trainer, context, splits, metrics)


# The tests


@pytest.fixture
def train_replaced(texts, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("\n".join(texts[:60]))

    def train(*argv):
        return driver(main, capsys)(
            "--model_type", "bert", "--vocab_size", 300, "--config_overrides", "hidden_size=16,"
            "num_hidden_layers=1,num_attention_heads=2,intermediate_size=32,max_position_embeddings=32,"
            "hidden_dropout_prob=0,attention_probs_dropout_prob=0", "--train_file", tmp_path / "text.txt",
            "--do_train", "--do_eval", "--learning_rate", 1e-2, "--disable_tqdm", "true",
            "--output_dir", tmp_path / "out", *argv,
        )  # fmt: skip

    return train


def test_a_further_task_is_trained_evaluated_and_reported(train_replaced, tmp_path):
    """Metrics equal the saved model's, computed block by block on the validation text."""
    code, printed, errors = train_replaced("--max_steps", 12, "--validation_file", tmp_path / "text.txt")
    assert code == 0, errors
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    lines = tokenizer((tmp_path / "text.txt").read_text().splitlines(), add_special_tokens=False)["input_ids"]
    joined = [token for line in lines for token in (*line, tokenizer.sep_token_id)][:-1]
    total = count = 0
    for number, begin in enumerate(range(0, len(joined), 30)):
        block = [tokenizer.cls_token_id, *joined[begin : begin + 30], tokenizer.sep_token_id]
        example = {"input_ids": np.array(block), "example": number}
        batch = replace_tokens([example], tokenizer.pad_token_id, Padding(), seed=0, size=300)
        with torch.no_grad():
            logits = model(input_ids=batch["input_ids"]).logits[0]
        total += functional.cross_entropy(logits, batch["replaced"][0], reduction="sum").item()
        count += len(block)
    assert results["eval_tokens"] == count
    assert results["eval_loss"] == pytest.approx(total / count, rel=1e-5)
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert results["eval_loss"] < history[0]["eval_loss"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "pipeline_tag: token-classification" in card
    assert "A replaced token detector, trained from a new bert." in card
    assert "Replaced tokens found in a text:" in printed
    assert "Loss of replaced tokens" in printed


def test_a_further_task_has_a_dry_run(train_replaced, tmp_path):
    code, printed, errors = train_replaced("--max_steps", 12, "--dry_run")
    assert code == 0, errors
    assert "nothing was trained" in printed
    assert not (tmp_path / "out").exists()
