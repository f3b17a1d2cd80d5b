"""Define the task of run_clm.py, causal language modelling."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from cloze.config.data_arguments import CausalArguments
from cloze.data.blocks import make_block_splits
from cloze.data.collators import Padding, special_ids
from cloze.data.context import DataContext
from cloze.data.next_tokens import collate_next_tokens
from cloze.data.splits import DatasetSplits
from cloze.errors import UserError
from cloze.inference.predictions import name_samples
from cloze.models.causality import check_causal
from cloze.models.inspection import count_positions
from cloze.models.trials import quiet
from cloze.objectives.next_tokens import NEXT_TOKENS
from cloze.objectives.task import BEGINNING, Task, generation_usage
from cloze.tokenization.characters import bytes_of, characters_of
from cloze.tokenization.templates import template_of
from cloze.training.trainer import PretrainingTrainer

logger = logging.getLogger(__name__)

# Encoders that transformers can also run with a causal mask, with the weights of their masked language model.
ENCODER_TYPES = (
    "bert", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "rembert", "roberta",
    "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip
# Models that attend in both directions, though transformers has them among the causal ones.
BIDIRECTIONAL_TYPES = ("big_bird", "reformer", "xlm", "xlnet")
# Texts that are continued at the end of a run, the tokens given of each, and the new ones.
SHOWN, GIVEN, NEW = 3, 16, 24


class CausalLM(Task):
    """Predict each token from the tokens before it, in blocks or lines of text."""

    title = "causal language model"
    head = "causal-language-modelling head"
    auto_model = AutoModelForCausalLM
    model_types = tuple(name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name not in BIDIRECTIONAL_TYPES)
    instead = (
        "use a decoder such as gpt2, run_plm.py for xlnet, or an encoder of one of these types: "
        f"{', '.join(ENCODER_TYPES)}"
    )
    objectives: ClassVar = {"": NEXT_TOKENS}
    is_causal = True
    pipeline_tag = "text-generation"

    def configure(self, config: PretrainedConfig, model_args: Any) -> None:
        """Give an encoder a causal mask."""
        if config.model_type in ENCODER_TYPES and not config.is_decoder:
            logger.info("Model: the %s encoder gets a causal mask (is_decoder in its config)", config.model_type)
            config.is_decoder = True

    def check(self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise UserError for a tokenizer without a token between documents."""
        if not template_of(tokenizer).separator:
            raise UserError(
                f"the tokenizer ({type(tokenizer).__name__}) has no end-of-text token to put between documents: set "
                "eos_token in its tokenizer_config.json"
            )

    def prepare_tokenizer(self, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> None:
        """Give an encoder's tokenizer special tokens if it adds none; leave a decoder's unchanged."""
        if config.model_type in ENCODER_TYPES:
            super().prepare_tokenizer(tokenizer, config)

    def padding_id(self, tokenizer: PreTrainedTokenizerBase) -> int | None:
        """Return the id to pad with: the end-of-text token's if there is no padding token, as in GPT-2."""
        return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def prepare_model(self, model: PreTrainedModel, max_seq_length: int) -> None:
        """Raise UserError for a model that attends to later tokens."""
        check_causal(model)

    def make_splits(self, context: DataContext) -> DatasetSplits:
        """Return blocks or lines; log their statistics and a sample."""
        return make_block_splits(context)

    def make_collator(self, context: DataContext, padding: Padding, seed: int) -> Callable[[list[dict]], dict]:
        """Return a collator that pads, with the next tokens as targets."""
        tokenizer = context.tokenizer
        sizes = {"characters": characters_of(tokenizer), "bytes": bytes_of(tokenizer)}
        for each in sizes.values():
            # They stand for the ends of documents, not for text.
            each[special_ids(tokenizer)] = 0
        pad_id = self.padding_id(tokenizer)
        assert pad_id is not None, "check_model has checked it"
        return partial(collate_next_tokens, pad_id=pad_id, padding=padding, sizes=sizes)

    def predict_samples(self, trainer: PretrainingTrainer, samples: Sequence[dict]) -> dict[str, list[str]]:
        """Return the beginnings of a few samples, each with its most probable continuation."""
        lines = continue_samples(trainer.model, trainer.processing_class, samples)
        return {f"Beginnings of {name_samples(trainer)} texts, continued": lines}

    def describe_settings(self, data_args: CausalArguments) -> list[str]:
        """Describe the examples."""
        return [f"It was trained on {'lines' if data_args.line_by_line else 'blocks of joined documents'}."]

    def usage(self, folder: str, tokenizer: PreTrainedTokenizerBase) -> str:
        """Return two lines of Python that continue a text, without the special tokens of an encoder after it."""
        template = template_of(tokenizer)
        if not template.suffix:
            return generation_usage(folder, BEGINNING)
        start = "".join(tokenizer.convert_ids_to_tokens(list(template.prefix)))
        return generation_usage(folder, start + BEGINNING, ", add_special_tokens=False")


@torch.no_grad()
def continue_samples(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, samples: Sequence[dict]) -> list[str]:
    """Return the beginnings of at most SHOWN samples, each with its greedy continuation after " ... ".

    There are none if the samples are short, or if the model has no more positions or cannot generate.
    """
    begins = [begin for sample in samples if (begin := beginning_of(sample["input_ids"], tokenizer)) is not None]
    positions = count_positions(model, model.config)
    new = NEW if positions is None else min(NEW, positions - GIVEN)
    if not begins or new < 1 or not model.can_generate():
        return []
    chosen = torch.from_numpy(np.stack(begins[:: max(1, len(begins) // SHOWN)][:SHOWN])).to(model.device)
    pad_id = CAUSAL_LM.padding_id(tokenizer)
    # Any: PreTrainedModel does not declare generate.
    generator: Any = model.eval()
    with quiet():
        whole = generator.generate(
            chosen, attention_mask=torch.ones_like(chosen), do_sample=False, max_new_tokens=new, pad_token_id=pad_id
        )
    texts = (
        [" ".join(str(tokenizer.decode(part, skip_special_tokens=True)).split()) for part in (row[:GIVEN], row[GIVEN:])]
        for row in whole
    )
    return [f"{given} ... {new}" for given, new in texts]


def beginning_of(ids: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> np.ndarray | None:
    """Return GIVEN tokens of an example, [GIVEN], if possible from a document's begin; None if all runs are shorter.

    Args:
        ids: of the example, [length].
        tokenizer: special tokens, such as the one between two documents, divide its documents.
    """
    borders = np.append(np.flatnonzero(np.isin(ids, tokenizer.all_special_ids)), len(ids))
    for begin, end in reversed(list(pairwise([0, *borders]))):
        if end - begin >= GIVEN:
            return ids[begin : begin + GIVEN]
    return None


CAUSAL_LM = CausalLM()
