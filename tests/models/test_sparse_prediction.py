"""Logits at masked positions only: the model's own loss and gradients, from fewer rows in the head."""

import copy
import io
import logging
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from transformers import (
    CONFIG_MAPPING,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    BertConfig,
    BertForMaskedLM,
    BigBirdConfig,
    BigBirdForMaskedLM,
)

from cloze.data.collators import masked_positions
from cloze.models import sparse_prediction
from cloze.models.sparse_prediction import KNOWN_PLACES, _find_place, predict_masked_positions
from cloze.objectives.metrics import MASKED_TOKENS, SENTENCE_PAIRS
from tests.utils import BERT_LIKE, FAMILIES, NO_DROPOUT, PAIR_FAMILIES

VOCABULARY, BATCH, LENGTH = 500, 5, 20
LENGTHS = [20, 13, 7, 17, 5]
# Number of masked tokens in each row: unequal, and none in one row.
MASKED = [9, 1, 0, 6, 3]
MASKED_FAMILIES = FAMILIES | {"xlm-roberta": ("byte_level", BERT_LIKE | NO_DROPOUT)}
OTHERS = dict.fromkeys(("mpnet", "camembert"), ("byte_level", BERT_LIKE | NO_DROPOUT))
SECOND_LABELS = {"albert": "sentence_order_label"}
DROPOUT = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout")
MODERNBERT_DROPOUT = ("embedding_dropout", "attention_dropout", "mlp_dropout")


def model_of(family, auto_model=AutoModelForMaskedLM, seed=0, **settings):
    """A tiny model in training mode, with weights large enough for the loss to depend on each of them."""
    config = CONFIG_MAPPING[family](
        **(MASKED_FAMILIES | PAIR_FAMILIES | OTHERS)[family][1]
        | {"vocab_size": VOCABULARY, "pad_token_id": 0, "initializer_range": 0.3}
        | settings
    )
    torch.manual_seed(seed)
    return auto_model.from_config(config).train()


def batch_of(lengths=LENGTHS, masked=MASKED, length=LENGTH, multiple=8, pairs=False):
    """A padded batch as from a collator, with an unequal number of masked tokens in each row."""
    generator = torch.Generator().manual_seed(1)
    real = torch.arange(length) < torch.tensor(lengths)[:, None]
    ids = torch.randint(5, VOCABULARY, (len(lengths), length), generator=generator) * real
    labels = torch.full_like(ids, -100)
    for row, count in enumerate(masked):
        places = torch.randperm(lengths[row], generator=generator)[:count]
        labels[row, places] = torch.randint(5, VOCABULARY, (count,), generator=generator)
    batch = {"input_ids": ids, "attention_mask": real.long(), "labels": labels}
    if pairs:
        batch["token_type_ids"] = (torch.arange(length) >= 4).long() * real
        batch["next_sentence_label"] = torch.arange(len(lengths)) % 2
    return batch | {"masked_positions": torch.from_numpy(masked_positions(labels.numpy(), multiple))}


def own_loss(model, batch):
    """The model's own loss with labels, from all logits."""
    inputs = {name: values for name, values in batch.items() if name != "masked_positions"}
    if "next_sentence_label" in inputs and model.config.model_type in SECOND_LABELS:
        inputs[SECOND_LABELS[model.config.model_type]] = inputs.pop("next_sentence_label")
    return model(**inputs).loss


def loss_of(model, batch, objectives=(MASKED_TOKENS,)):
    """The Trainer's loss: the sum of each objective's mean over its targets."""
    outputs = model(**{name: values for name, values in batch.items() if name not in ("labels", "next_sentence_label")})
    losses = []
    for objective in objectives:
        scores = objective.score(objective.logits_of(outputs), batch)
        losses.append(scores["loss"].sum() / scores["count"].sum())
    return sum(losses)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: weights.grad for name, weights in model.named_parameters()}


def assert_same(model, stock, batch, objectives=(MASKED_TOKENS,), seed=3, **tolerance):
    """Compare loss and all gradients, with the same random numbers."""
    tolerance = tolerance or {"rtol": 1e-6, "atol": 1e-6}
    torch.manual_seed(seed)
    loss = loss_of(model, batch, objectives)
    torch.manual_seed(seed)
    expected = own_loss(stock, batch)
    torch.testing.assert_close(loss, expected, **tolerance)
    found, wanted = gradients(model, loss), gradients(stock, expected)
    assert found.keys() == wanted.keys()
    assert sum(bool(grad.abs().sum() > 0) for grad in wanted.values() if grad is not None) > 15
    torch.testing.assert_close(found, wanted, **tolerance)


def hooked(stock):
    """A copy whose forward takes masked positions, and the place where it selects them."""
    model = copy.deepcopy(stock)
    return model, predict_masked_positions(model, MASKED_TOKENS.logits, 32)


# The same loss


@pytest.mark.parametrize("family", MASKED_FAMILIES)
def test_sparse_loss_and_gradients_equal_the_models_own(family):
    stock = model_of(family)
    model, place = hooked(stock)
    assert place
    assert_same(model, stock, batch_of())


@pytest.mark.parametrize("family", MASKED_FAMILIES)
def test_sparse_loss_and_gradients_equal_the_models_own_with_dropout(family):
    """The random numbers are the same up to the selection; after it, dropout is switched off."""
    names = MODERNBERT_DROPOUT if family == "modernbert" else DROPOUT
    known = CONFIG_MAPPING[family]().to_dict()
    stock = model_of(family, **{name: 0.3 for name in names if name in known})
    for name, module in stock.named_modules():
        if isinstance(module, torch.nn.Dropout) and re.search(r"layer\.1\.(output|ffn)\.dropout", name):
            module.p = 0.0
    model, _ = hooked(stock)
    assert_same(model, stock, batch_of())
    torch.manual_seed(4)
    other = loss_of(model, batch_of())
    torch.manual_seed(3)
    assert abs(other - loss_of(model, batch_of())) > 1e-4, "dropout did something"


@pytest.mark.parametrize("family", ["bert", "albert"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_sparse_losses_and_gradients_of_both_heads_equal_the_models_own(family, dropout):
    stock = model_of(
        family,
        AutoModelForPreTraining,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        **({"classifier_dropout_prob": dropout} if family == "albert" else {}),
    )
    model, place = hooked(stock)
    assert place
    assert_same(model, stock, batch_of(pairs=True), (MASKED_TOKENS, SENTENCE_PAIRS))


@pytest.mark.parametrize("family", sorted(set(PAIR_FAMILIES) - {"bert", "albert"}))
def test_sparse_prediction_serves_other_pretraining_models(family):
    """FNet mixes padding with text, and ignores its mask."""
    stock = model_of(family, AutoModelForPreTraining)
    model, place = hooked(stock)
    assert place
    batch = batch_of(pairs=True)
    if family == "fnet":
        del batch["attention_mask"]
    assert_same(model, stock, batch, (MASKED_TOKENS, SENTENCE_PAIRS), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("multiple", [1, 32, 1000])
def test_filler_positions_change_nothing(multiple):
    stock = model_of("bert")
    assert_same(hooked(stock)[0], stock, batch_of(multiple=multiple))


def test_batch_without_masked_tokens_has_zero_gradients():
    model, _ = hooked(model_of("bert"))
    batch = batch_of(masked=[0] * BATCH)
    outputs = model(batch["input_ids"], attention_mask=batch["attention_mask"], masked_positions=torch.zeros(8).long())
    loss = MASKED_TOKENS.score(outputs.logits, batch | {"masked_positions": torch.zeros(8).long()})["loss"].sum()
    assert loss == 0
    assert all(grad is None or not grad.any() for grad in gradients(model, loss).values())


def test_sparse_prediction_under_autocast():
    """In bfloat16, logits differ by rounding; the loss is computed from the rounded logits."""
    stock = model_of("bert")
    model, _ = hooked(stock)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(model, stock, batch_of(), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("family", ["bert", "modernbert", "deberta-v2"])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_sparse_prediction_with_gradient_checkpointing(family, use_reentrant):
    stock = model_of(family)
    model, _ = hooked(stock)
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    assert model.is_gradient_checkpointing
    assert_same(model, stock, batch_of())


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("in_thread", [False, True])
def test_a_recomputed_layer_selects_the_positions_of_its_own_forward(use_reentrant, in_thread):
    """Three forwards before their backwards, which may run in autograd's thread for the device."""
    stock = model_of("bert")
    model, _ = hooked(stock)
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    batches = batch_of(), batch_of(masked=[2, 3, 1, 1, 4])
    # Also without positions: this backward runs after the others.
    losses = [own_loss(model, batches[0]), *(loss_of(model, batch) for batch in batches)]
    found = gradients(model, sum(losses)) if not in_thread else in_other_thread(gradients, model, sum(losses))
    wanted = gradients(stock, sum(own_loss(stock, batch) for batch in (*batches, batches[0])))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_compiled_with_gradient_checkpointing():
    torch._dynamo.reset()
    stock = model_of("bert")
    model, _ = hooked(stock)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    compiled = torch.compile(model, backend="aot_eager")
    for masked in (MASKED, [2, 3, 1, 1, 4]):
        batch = batch_of(masked=masked)
        loss, expected = loss_of(compiled, batch), own_loss(stock, batch)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(gradients(model, loss), gradients(stock, expected), rtol=1e-5, atol=1e-6)
    torch._dynamo.reset()


def test_compiled_in_parts():
    """At a graph break, hooks without tensors run uncompiled; hooks with tensors are compiled."""
    torch._dynamo.reset()
    stock = model_of("bert").eval()
    model, _ = hooked(stock)
    model.base_model.embeddings.register_forward_hook(lambda *_: torch._dynamo.graph_break())
    compiled = torch.compile(model, backend="eager")
    ids = batch_of()["input_ids"]
    for positions in (torch.tensor([3, 9]), torch.tensor([1]), torch.tensor([4, 5, 6])):
        wanted = stock(ids).logits.flatten(0, 1)[positions]
        torch.testing.assert_close(compiled(ids, masked_positions=positions).logits[0], wanted)
        torch.testing.assert_close(model(ids, masked_positions=positions).logits[0], wanted)
    torch._dynamo.reset()


def in_other_thread(function, *args):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args).result()


@pytest.mark.parametrize("place", ["bert", "bert.encoder.layer.0", "cls"])
def test_calls_in_threads_select_their_own_positions(place):
    """A page may have several users; each thread waits for the other in the middle of its forward."""
    stock = model_of("bert").eval()
    model, _ = hooked(stock)
    barrier = threading.Barrier(2, timeout=20)

    def wait(module, args):
        barrier.wait()

    model.get_submodule(place).register_forward_pre_hook(wait)
    ids = batch_of()["input_ids"]
    asked = [torch.tensor([3, 9]), torch.tensor([1]), torch.tensor([2, 0, 7]), None]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda positions: model(ids, masked_positions=positions).logits, asked))
    logits = stock(ids).logits
    for positions, values in zip(asked, found, strict=True):
        wanted = logits if positions is None else logits.flatten(0, 1)[positions][None]
        torch.testing.assert_close(values, wanted)


def test_compiled_calls_in_threads_select_their_own_positions():
    """Each thread waits for the other at a graph break, with its positions set."""
    torch._dynamo.reset()
    stock = model_of("bert").eval()
    model, _ = hooked(stock)
    barrier = threading.Barrier(2, timeout=60)

    @torch._dynamo.disable
    def wait(module, args, output):
        barrier.wait()

    model.base_model.embeddings.register_forward_hook(wait)
    compiled = torch.compile(model, backend="eager")
    ids = batch_of()["input_ids"]
    asked = [torch.tensor([3, 9]), torch.tensor([1, 4, 8]), torch.tensor([2, 0, 7, 5]), torch.tensor([6, 3])]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda positions: compiled(ids, masked_positions=positions).logits[0], asked))
    logits = stock(ids).logits.flatten(0, 1)
    for positions, values in zip(asked, found, strict=True):
        torch.testing.assert_close(values, logits[positions])
    torch._dynamo.reset()


def test_sparse_prediction_in_parallel_processes(tmp_path):
    """The wrapper calls the model's forward with its hooks."""
    stock = model_of("bert")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model, _ = hooked(stock)
        parallel = DistributedDataParallel(model)
        loss, expected = loss_of(parallel, batch_of()), own_loss(stock, batch_of())
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(gradients(model, loss), gradients(stock, expected), rtol=1e-6, atol=1e-6)
    finally:
        torch.distributed.destroy_process_group()


def test_sparse_prediction_compiles_to_one_graph():
    """No graph break; all shapes but the first two share a graph."""
    torch._dynamo.reset()
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    stock = model_of("bert")
    model, _ = hooked(stock)
    compiled = torch.compile(model, backend=count, fullgraph=True)
    for rows, length, masked in ((5, 20, 9), (3, 16, 9), (4, 12, 3), (5, 8, 5), (2, 20, 14), (7, 16, 2)):
        batch = batch_of([length] * rows, [masked] * rows, length)
        torch.testing.assert_close(loss_of(compiled, batch), own_loss(stock, batch), rtol=1e-5, atol=1e-5)
    assert len(graphs) <= 3
    torch._dynamo.reset()


# Unchanged behaviour


@pytest.mark.parametrize("family", MASKED_FAMILIES)
def test_forward_without_masked_positions_is_unchanged(family, tmp_path):
    """Outputs are equal to the bit, and names and saved files stay the same."""
    stock = model_of(family).eval()
    model, _ = hooked(stock)
    assert list(model.state_dict()) == list(stock.state_dict())
    assert type(model) is type(stock)
    batch = batch_of()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    logits = model(**inputs).logits
    assert logits.shape == (BATCH, LENGTH, VOCABULARY)
    assert torch.equal(logits, stock(**inputs).logits)
    model(**inputs, masked_positions=batch["masked_positions"])
    assert torch.equal(model(**inputs).logits, logits), "not even after a batch with them"
    model.save_pretrained(tmp_path)
    loaded = type(stock).from_pretrained(tmp_path).eval()
    assert loaded.config.architectures == [type(stock).__name__]
    assert torch.equal(loaded(**inputs).logits, logits)


def test_trial_keeps_mode_and_gradients():
    for training in (True, False):
        model = model_of("bert").train(training)
        predict_masked_positions(model, MASKED_TOKENS.logits, 32)
        assert {module.training for module in model.modules()} == {training}
        assert all(weights.grad is None and weights.requires_grad for weights in model.parameters())


def test_big_bird_keeps_its_sparse_attention():
    """BigBird switches to full attention for good on texts as short as in a trial."""
    sizes = {name: value for name, value in BERT_LIKE.items() if name != "max_position_embeddings"}
    model = BigBirdForMaskedLM(BigBirdConfig(vocab_size=VOCABULARY, attention_type="block_sparse", **sizes))
    predict_masked_positions(model, MASKED_TOKENS.logits, 32)
    assert model.bert.attention_type == "block_sparse"
    assert model.bert.encoder.layer[0].attention.self.__class__.__name__ == "BigBirdBlockSparseAttention"


def test_deepcopy_has_its_own_hooks():
    """Otherwise, a forward of one model would use the positions of the other."""
    stock = model_of("bert").eval()
    model, _ = hooked(stock)
    other = copy.deepcopy(model)
    positions = torch.tensor([3, 9])
    ids = batch_of()["input_ids"]
    found = []

    def call_other(module, args):
        found.append(other(ids, masked_positions=torch.tensor([1])).logits.shape)

    model.base_model.embeddings.register_forward_pre_hook(call_other)
    assert model(ids, masked_positions=positions).logits.shape == (1, 2, VOCABULARY)
    assert found == [(1, 1, VOCABULARY)]
    assert other(ids).logits.shape == (BATCH, LENGTH, VOCABULARY)


def test_deepcopy_saves_weights_without_hooks():
    buffer = io.BytesIO()
    model, _ = hooked(model_of("bert"))
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    assert model_of("bert", seed=1).load_state_dict(torch.load(buffer)).missing_keys == []


class Strict(BertForMaskedLM):
    """A forward without **kwargs."""

    def forward(self, input_ids, attention_mask=None):
        return super().forward(input_ids, attention_mask)


def test_forward_is_given_no_positions():
    torch.manual_seed(0)
    model, place = hooked(Strict(BertConfig(vocab_size=VOCABULARY, **BERT_LIKE)))
    assert place
    assert model(batch_of()["input_ids"], masked_positions=torch.tensor([3])).logits.shape == (1, 1, VOCABULARY)


def test_base_model_alone_gives_all_positions():
    model, _ = hooked(model_of("bert"))
    ids = batch_of()["input_ids"]
    model(ids, masked_positions=torch.tensor([3]))
    assert model.base_model(ids).last_hidden_state.shape == (BATCH, LENGTH, 16)


def test_positions_are_cleared_after_a_failed_forward():
    model, _ = hooked(model_of("bert").eval())
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, 4), VOCABULARY), masked_positions=torch.tensor([0]))
    assert model(torch.ones(2, 4, dtype=torch.long)).logits.shape == (2, 4, VOCABULARY)


# Fewer rows


def rows_through(module, sizes):
    module.register_forward_hook(lambda module, args, output: sizes.append(tuple(output.shape)))


@pytest.mark.parametrize("auto_model", [AutoModelForMaskedLM, AutoModelForPreTraining])
def test_head_computes_masked_positions_only(auto_model):
    """19 masked tokens make 24 rows instead of 100, in the transform and in the logits."""
    model, _ = hooked(model_of("bert", auto_model))
    sizes = []
    rows_through(model.cls.predictions.decoder, sizes)
    rows_through(model.cls.predictions.transform, sizes)
    batch = batch_of()
    outputs = model(batch["input_ids"], masked_positions=batch["masked_positions"])
    assert sorted(sizes) == [(1, 24, 16), (1, 24, VOCABULARY)]
    assert MASKED_TOKENS.logits_of(outputs).shape == (1, 24, VOCABULARY)


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Record the number of elements of the largest tensor."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **kwargs or {})
        for value in output if isinstance(output, (tuple, list)) else [output]:
            if torch.is_tensor(value):
                self.size = max(self.size, value.numel())
        return output


def test_no_tensor_is_as_large_as_all_logits():
    stock = model_of("bert")
    model, _ = hooked(stock)
    sizes = []
    for loss in (lambda: loss_of(model, batch_of()), lambda: own_loss(stock, batch_of())):
        with Largest() as largest:
            loss().backward()
        sizes.append(largest.size)
    assert sizes[0] == max(24 * VOCABULARY, VOCABULARY * 16)
    assert sizes[1] == BATCH * LENGTH * VOCABULARY


# Models whose head needs all positions


class Mixing(BertForMaskedLM):
    """A head that uses the neighbours of each position."""

    def forward(self, input_ids, attention_mask=None, **kwargs):
        hidden = self.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        return {"logits": self.cls(hidden + hidden.roll(1, dims=1))}


class Whole(BertForMaskedLM):
    """A head that needs as many positions as the input has."""

    def forward(self, input_ids, attention_mask=None, **kwargs):
        hidden = self.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        return {"logits": self.cls(hidden.view(*input_ids.shape, -1))}


class Inner(BertForMaskedLM):
    """A head on another hidden state than the last."""

    def forward(self, input_ids, attention_mask=None, **kwargs):
        outputs = self.bert(input_ids, attention_mask=attention_mask, output_hidden_states=True)
        return {"logits": self.cls(outputs.hidden_states[-2])}


class Far(BertForMaskedLM):
    """A second output for the pair, from the first position of the last hidden state."""

    def forward(self, input_ids, attention_mask=None, **kwargs):
        hidden = self.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        return {"logits": self.cls(hidden), "seq_relationship_logits": hidden[:, 0]}


@pytest.mark.parametrize("kind", [Mixing, Whole, Inner, Far])
def test_head_that_needs_all_positions_gets_them(kind, caplog):
    torch.manual_seed(0)
    stock = kind(BertConfig(vocab_size=VOCABULARY, initializer_range=0.3, **BERT_LIKE | NO_DROPOUT)).train()
    with caplog.at_level(logging.INFO, "cloze"):
        model, place = hooked(stock)
    assert not place
    assert f"{kind.__name__} needs logits at all positions" in caplog.text
    batch = batch_of()
    loss = loss_of(model, batch)
    logits = stock(batch["input_ids"], batch["attention_mask"])["logits"]
    expected = functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(model, loss), gradients(stock, expected), rtol=1e-6, atol=1e-6)


def test_sparse_model_is_not_warned_about(caplog):
    with caplog.at_level(logging.INFO, "cloze"):
        hooked(model_of("bert"))
    assert caplog.text == ""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sparse_prediction_in_half_precision(dtype):
    assert hooked(model_of("bert").to(dtype))[1]


def test_sparse_prediction_with_a_padded_decoder():
    """A vocabulary that was rounded up, and a small one, which the ids of the trial must fit."""
    assert hooked(model_of("bert", vocab_size=512))[1]
    assert hooked(model_of("bert", vocab_size=7))[1]
    assert isinstance(model_of("bert").get_output_embeddings(), nn.Linear)


@pytest.mark.parametrize(
    ("family", "place"),
    [
        ("bert", "bert.encoder.layer.1.attention"),
        ("distilbert", "distilbert.transformer.layer.1.sa_layer_norm"),
        ("deberta-v2", "deberta.encoder.layer.1.attention"),
        ("modernbert", "model"),
        ("albert", "albert"),
    ],
)
def test_positions_are_selected_as_early_as_the_model_allows(family, place):
    """ModernBERT adds the attention's input after it; ALBERT's last layer is also its first."""
    _, found = hooked(model_of(family))
    assert found == place


@pytest.mark.parametrize("name", KNOWN_PLACES)
def test_known_places_are_those_that_a_trial_finds(name):
    auto_model = AutoModelForPreTraining if name.endswith("PreTraining") else AutoModelForMaskedLM
    (family,) = {*MASKED_FAMILIES, *OTHERS} & {
        config.model_type for config, known in auto_model._model_mapping.items() if known.__name__ == name
    }
    settings = {"albert": {"num_hidden_groups": 2, "inner_group_num": 3}, "deberta-v2": {"conv_kernel_size": 3}}
    others = {"num_hidden_layers": 3, "hidden_act": "relu"} | settings.get(family, {})
    for more in ({}, others, {"num_hidden_layers": 4, "tie_word_embeddings": False}):
        model = model_of(family, auto_model, **more)
        assert type(model).__name__ == name
        assert sparse_prediction._known_place(model) == _find_place(model, MASKED_TOKENS.logits, 32) != ""


def test_no_trial_is_made_of_a_known_model(monkeypatch):
    monkeypatch.setattr(sparse_prediction, "_find_place", None)
    assert hooked(model_of("bert"))[1] == "bert.encoder.layer.1.attention"


@pytest.mark.parametrize(
    "settings", [{"num_hidden_layers": 1}, {"chunk_size_feed_forward": 3}, {"model_type": "mobilebert"}]
)
def test_a_trial_is_made_where_settings_could_change_the_place(settings):
    family = settings.pop("model_type", "bert")
    assert sparse_prediction._known_place(model_of(family, **settings)) is None


def test_a_trial_is_made_of_a_class_of_that_name_that_is_not_of_transformers():
    other = type("BertForMaskedLM", (BertForMaskedLM,), {"__module__": "transformers_modules.own.modeling_bert"})
    assert sparse_prediction._known_place(other(BertConfig(vocab_size=VOCABULARY, **BERT_LIKE))) is None


def test_last_feed_forward_sees_masked_positions_only():
    model, _ = hooked(model_of("bert"))
    rows = []
    for layer in model.bert.encoder.layer:
        layer.intermediate.register_forward_hook(lambda module, args, output: rows.append(output.shape[:2].numel()))
    model(batch_of()["input_ids"], masked_positions=torch.tensor([3, 5, 0]))
    assert rows == [BATCH * LENGTH, 3]


@pytest.mark.parametrize(
    ("family", "settings", "length"),
    [
        # LUKE cuts its output to the text's length, which may be smaller than the number of masked positions.
        ("luke", {"entity_vocab_size": 10, "entity_emb_size": 16}, 8),
        # These pad internally and cut the padding off again; BigBird from a certain length on.
        ("longformer", {"attention_window": 8}, 13),
        ("big_bird", {"block_size": 4, "num_random_blocks": 1, "attention_type": "block_sparse"}, 45),
    ],
)
def test_sparse_prediction_in_models_that_cut_their_output(family, settings, length):
    torch.manual_seed(0)
    sizes = {**BERT_LIKE, "vocab_size": VOCABULARY, "max_position_embeddings": 64}
    stock = AutoModelForMaskedLM.from_config(CONFIG_MAPPING[family](**sizes | settings)).eval()
    model = copy.deepcopy(stock)
    predict_masked_positions(model, MASKED_TOKENS.logits, 48)
    ids = torch.randint(5, VOCABULARY, (2, length))
    positions = torch.arange(2 * length - 1)
    found = model(ids, attention_mask=torch.ones_like(ids), masked_positions=positions).logits[0]
    wanted = stock(ids, attention_mask=torch.ones_like(ids)).logits.flatten(0, 1)[positions]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
