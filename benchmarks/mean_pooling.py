#!/usr/bin/env python
"""Do what run_classification.py does, with BERT classifiers that read the mean of all tokens, for adaptation.py.

    python benchmarks/mean_pooling.py --model_name_or_path minilm --train_file labelled.csv --do_train --do_eval ...

BERT's own classifier reads [CLS] through a pooler, which masked language modelling does not train.
"""

import sys
from pathlib import Path

import torch
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import run_classification  # noqa: E402
from cloze.cli import run_script  # noqa: E402


class MeanPooledBert(BertForSequenceClassification):
    """Classify the mean of the last hidden states, padding left out, without a pooler."""

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.bert.pooler = None

    def forward(self, input_ids, attention_mask=None, token_type_ids=None, labels=None, **kwargs):
        hidden = self.bert(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).last_hidden_state
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        weights = (real / real.sum(1, keepdim=True)).to(hidden.dtype)
        logits = self.classifier(self.dropout((weights[:, None] @ hidden).squeeze(1)))
        loss = None if labels is None else functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


if __name__ == "__main__":
    AutoModelForSequenceClassification.register(BertConfig, MeanPooledBert, exist_ok=True)
    run_script(run_classification.main)
