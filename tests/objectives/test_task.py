"""Test that a new objective needs one module, as in cloze/tasks, and one script: causal language modelling."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from cloze.config.arguments import ModelArguments, TrainingArguments
from cloze.config.data_arguments import DataArguments
from cloze.data.blocks import BlockBuilder
from cloze.data.collators import IGNORED, Padding, collate
from cloze.data.context import DataContext
from cloze.data.splits import DatasetSplits, make_splits
from cloze.objectives.metrics import Objective, Scores, by_name, summarise_tokens
from cloze.objectives.task import Task
from cloze.reporting.summary import finish
from cloze.training.context import set_up
from cloze.training.run import run, start
from tests.utils import driver

# The module


@dataclass
class CausalArguments(DataArguments):
    """The data of the script."""

    metrics: ClassVar[tuple[str, ...]] = ("loss", "perplexity", "accuracy")

    line_by_line: bool = False
    truncate_long_lines: bool = False


def score_next_tokens(logits: torch.Tensor, batch: dict[str, torch.Tensor], label_smoothing: float = 0.0) -> Scores:
    """Return each example's summed cross-entropy over its tokens except the first, their count, and the hits."""
    targets = batch["next_tokens"]
    losses = functional.cross_entropy(
        logits.float().transpose(1, 2),
        targets,
        reduction="none",
        label_smoothing=label_smoothing,
        ignore_index=IGNORED,
    )
    columns = [losses.sum(1), (targets != IGNORED).sum(1), (logits.argmax(-1) == targets).sum(1)]
    return by_name(("loss", "count", "hits"), torch.stack(columns, dim=1))


def summarise_next_tokens(scores: dict[str, np.ndarray]) -> dict[str, float]:
    metrics = summarise_tokens(scores)
    return metrics | {"tokens": metrics.pop("masked_tokens")}


def collate_next_tokens(examples: list[dict], pad_id: int, padding: Padding) -> dict[str, torch.Tensor]:
    batch = collate(examples, pad_id, padding)
    targets = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
    batch["next_tokens"] = functional.pad(targets[:, 1:], (0, 1), value=IGNORED)
    return batch


class CausalLM(Task):
    """Predict each token from the tokens before it."""

    title = "causal language model"
    head = "causal-language-modelling head"
    auto_model = AutoModelForCausalLM
    model_types = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    instead = "use a decoder such as gpt2"
    objectives: ClassVar = {
        "": Objective(
            "next_tokens",
            ("logits",),
            score_next_tokens,
            summarise_next_tokens,
            (("perplexity", "perplexity", ",.2f"), ("accuracy of next tokens", "accuracy", ".1%")),
        )
    }
    pipeline_tag = "text-generation"

    def make_splits(self, context: DataContext) -> DatasetSplits:
        return make_splits(context, BlockBuilder(context.tokenizer, context.max_seq_length, context.data_args))

    def make_collator(self, context: DataContext, padding: Padding, seed: int):
        return partial(collate_next_tokens, pad_id=context.tokenizer.pad_token_id, padding=padding)

    @torch.no_grad()
    def predict_samples(self, trainer: Trainer, samples: Sequence[dict]) -> dict[str, list[str]]:
        ids = torch.tensor(samples[0]["input_ids"][:8])[None]
        text = trainer.model.eval().generate(ids.to(trainer.model.device), do_sample=False, max_new_tokens=4)
        return {"A text, continued": [trainer.processing_class.decode(text[0], skip_special_tokens=True)]}


CAUSAL_LM = CausalLM()

# The script


def main(model_args: ModelArguments, data_args: CausalArguments, training_args: TrainingArguments) -> None:
    context = set_up(CAUSAL_LM, model_args, data_args, training_args)
    splits = CAUSAL_LM.make_splits(context)
    trainer = start(context, splits)
    if trainer is None:
        return
    metrics = run(trainer, context)
    finish(trainer, context, splits, metrics)


# The tests


@pytest.fixture
def train_causal_lm(texts, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("\n".join(texts[:60]))

    def train(*argv):
        return driver(main, capsys)(
            "--model_type", "bert", "--vocab_size", 300, "--config_overrides", "is_decoder=true,hidden_size=16,"
            "num_hidden_layers=1,num_attention_heads=2,intermediate_size=32,max_position_embeddings=32,"
            "hidden_dropout_prob=0,attention_probs_dropout_prob=0", "--train_file", tmp_path / "text.txt",
            "--do_train", "--do_eval", "--learning_rate", 1e-2, "--disable_tqdm", "true",
            "--output_dir", tmp_path / "out", *argv,
        )  # fmt: skip

    return train


def test_a_further_task_is_trained_evaluated_and_reported(train_causal_lm, tmp_path):
    """Metrics equal the saved model's, computed token by token on the validation text."""
    code, printed, errors = train_causal_lm("--max_steps", 12, "--validation_file", tmp_path / "text.txt")
    assert code == 0, errors
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    lines = tokenizer((tmp_path / "text.txt").read_text().splitlines(), add_special_tokens=False)["input_ids"]
    joined = [token for line in lines for token in (*line, tokenizer.sep_token_id)][:-1]
    total = count = 0
    for begin in range(0, len(joined), 30):
        block = [tokenizer.cls_token_id, *joined[begin : begin + 30], tokenizer.sep_token_id]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([block])).logits[0]
        total += functional.cross_entropy(logits[:-1], torch.tensor(block[1:]), reduction="sum").item()
        count += len(block) - 1
    assert results["eval_tokens"] == count
    assert results["eval_loss"] == pytest.approx(total / count, rel=1e-5)
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert results["eval_loss"] < history[0]["eval_loss"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "pipeline_tag: text-generation" in card
    assert "A causal language model, trained from a new bert." in card
    assert "A text, continued:" in printed
    assert "perplexity" in printed


def test_a_further_task_has_a_dry_run(train_causal_lm, tmp_path):
    code, printed, errors = train_causal_lm("--max_steps", 12, "--dry_run")
    assert code == 0, errors
    assert "nothing was trained" in printed
    assert not (tmp_path / "out").exists()
