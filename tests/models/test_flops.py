"""FLOPs equal the formula, and peaks equal the data sheets."""

import math

import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForMaskedLM,
    AutoModelForNextSentencePrediction,
    AutoModelForPreTraining,
    BertConfig,
    BertForMaskedLM,
    BertForNextSentencePrediction,
    GPT2Config,
    GPT2LMHeadModel,
)

from cloze.models import flops as flops_module
from cloze.models.flops import Flops, _measure_peak, count_flops, peak_flops
from cloze.models.sparse_prediction import predict_masked_positions
from cloze.objectives.metrics import MASKED_TOKENS
from tests.utils import BERT_LIKE, FAMILIES, PAIR_FAMILIES

CPU = torch.device("cpu")


def bert(layers, width, feed_forward, vocabulary, model=BertForMaskedLM):
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=feed_forward,
        max_position_embeddings=66,
    )
    return model(config)


def counted(model, masks=True):
    if masks:
        predict_masked_positions(model, MASKED_TOKENS.logits, 32)
    return count_flops(model, masks)


# FLOPs


def test_flops_of_xlnet_have_two_streams(xlnet, xlnet_tokenizer):
    """16 d L a square: both streams attend to text and to positions, twice as many. Rows of targets: q, o and more."""
    layers, width, feed_forward, vocabulary = 2, 16, 32, len(xlnet_tokenizer)
    flops = count_flops(xlnet(), masks=True)
    assert flops.per_square == pytest.approx(16 * width * layers, rel=0.01)
    # The one-hot products that pick the targets add less than this.
    text = 12 * width**2 + 4 * width * feed_forward
    assert flops.per_token == pytest.approx(layers * text, rel=0.06)
    target = layers * (4 * width**2 + 4 * width * feed_forward) + 2 * width * vocabulary
    assert flops.per_label == pytest.approx(target, rel=0.06)


@pytest.mark.parametrize(
    ("layers", "width", "feed_forward", "vocabulary"), [(1, 16, 32, 100), (2, 32, 96, 300), (5, 24, 96, 77)]
)
def test_flops_of_bert_equal_the_formula(layers, width, feed_forward, vocabulary):
    """L (8 d^2 + 4 d f) a token, 4 d L a square, 2 d^2 + 2 d V a label; the last feed-forward is for labels only."""
    flops = counted(bert(layers, width, feed_forward, vocabulary))
    last = 4 * width * feed_forward
    assert flops.per_token == pytest.approx(layers * (8 * width**2 + 4 * width * feed_forward) - last, rel=1e-9)
    assert flops.per_square == pytest.approx(4 * width * layers, rel=1e-9)
    assert flops.per_label == pytest.approx(2 * width**2 + 2 * width * vocabulary + last, rel=1e-9)
    assert flops.per_example == pytest.approx(0, abs=1e-3)
    length, labels = 64, 10
    forward = layers * (8 * width**2 + 4 * width * feed_forward) * length + 4 * length**2 * width * layers
    forward += labels * (2 * width**2 + 2 * width * vocabulary) - last * (length - labels)
    assert flops.training(1, length, length**2, labels) == pytest.approx(3 * forward, rel=1e-9)


def test_flops_of_a_pair_are_pooler_and_classifier():
    flops = counted(bert(2, 32, 96, 300, BertForNextSentencePrediction), masks=False)
    assert flops.per_example == pytest.approx(2 * 32**2 + 2 * 32 * 2)
    assert flops.per_token == pytest.approx(2 * (8 * 32**2 + 4 * 32 * 96))
    assert flops.per_label == pytest.approx(0, abs=1e-3)


def test_flops_of_a_causal_model_count_logits_at_every_token():
    config = GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=2, n_positions=64)
    flops = counted(GPT2LMHeadModel(config), masks=False)
    assert flops.per_token == pytest.approx(2 * (8 * 32**2 + 4 * 32 * 128) + 2 * 32 * 300, rel=1e-9)
    assert flops.per_square == pytest.approx(4 * 32 * 2, rel=1e-9)
    assert (flops.per_example, flops.per_label) == (pytest.approx(0, abs=1e-3), pytest.approx(0, abs=1e-3))


def test_flops_add_up_over_examples():
    flops = Flops(1000, 100, 10, 7)
    assert flops.training(2, 30, 500, 4) == 3 * (2000 + 3000 + 5000 + 28)


def test_flops_of_a_full_head_count_every_token():
    """A head that needs all positions counts per token, and nothing per label."""

    class Mixing(BertForMaskedLM):
        def forward(self, input_ids, **kwargs):
            hidden = self.bert(input_ids).last_hidden_state
            return {"logits": self.cls(hidden + hidden.roll(1, dims=1))}

    flops = counted(bert(2, 32, 96, 300, Mixing))
    assert flops.per_token == pytest.approx(2 * (8 * 32**2 + 4 * 32 * 96) + 2 * 32**2 + 2 * 32 * 300)
    assert flops.per_label == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    ("family", "auto_model"),
    [
        *((family, AutoModelForMaskedLM) for family in [*FAMILIES, "fnet"]),
        *((family, AutoModelForPreTraining) for family in ("albert", "mobilebert", "big_bird")),
        ("megatron-bert", AutoModelForNextSentencePrediction),
    ],
)
def test_flops_of_every_family_are_counted(family, auto_model):
    """At least 2 FLOPs per token and weight of the layers."""
    config = CONFIG_MAPPING[family](**(FAMILIES | PAIR_FAMILIES)[family][1] | {"vocab_size": 500, "pad_token_id": 0})
    flops = counted(auto_model.from_config(config), auto_model is not AutoModelForNextSentencePrediction)
    assert all(map(math.isfinite, vars(flops).values()))
    assert 1000 < flops.per_token < 100_000
    if auto_model is AutoModelForMaskedLM:
        assert 2 * 8 * 500 <= flops.per_label < 2 * 16 * 500 + 3000


def test_counting_flops_leaves_the_model_unchanged():
    model = bert(1, 16, 32, 100).bfloat16().train()
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    assert counted(model) is not None
    assert model.training
    assert {weights.dtype for weights in model.parameters()} == {torch.bfloat16}
    assert all(weights.requires_grad for weights in model.parameters())
    assert all(torch.equal(weights, before[name]) for name, weights in model.state_dict().items())


def test_flops_are_none_for_a_model_that_fails_on_short_input():
    class Long(BertForMaskedLM):
        def forward(self, input_ids, **kwargs):
            return super().forward(input_ids.view(-1, 512))

    assert counted(bert(1, 16, 32, 100, Long)) is None


# Peaks


@pytest.fixture
def card(monkeypatch):
    """``card(name)`` simulates a GPU of that name, whose measured peak is 5 FLOP/s.

    TF32 is set in the same way as by transformers for --tf32 and --torch_compile.
    """
    before = torch.backends.fp32_precision
    peak_flops.cache_clear()
    monkeypatch.setattr(flops_module, "_measure_peak", lambda device, dtype: 5.0)

    def put(name, tf32=False):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: name)
        torch.backends.fp32_precision = "tf32" if tf32 else "ieee"
        peak_flops.cache_clear()

    yield put
    torch.backends.fp32_precision = before
    peak_flops.cache_clear()


@pytest.mark.parametrize(
    ("name", "half", "tf32", "single"),
    [
        ("NVIDIA H100 80GB HBM3", 989, 494, 67),
        ("NVIDIA H100 PCIe", 756, 378, 51),
        ("NVIDIA H100 NVL", 835, 417, 60),
        ("NVIDIA H200", 989, 494, 67),
        ("NVIDIA A100-SXM4-80GB", 312, 156, 19.5),
        ("NVIDIA L4", 121, 60, 30.3),
        ("NVIDIA L40S", 362, 183, 91.6),
        ("NVIDIA L40", 181, 90.5, 90.5),
        ("NVIDIA A10G", 70, 35, 31.5),
        ("NVIDIA GeForce RTX 4090", 165, 82.6, 82.6),
        ("Tesla V100-SXM2-16GB", 125, 15.7, 15.7),
        ("Tesla T4", 65, 8.1, 8.1),
    ],
)
def test_peak_flops_of_known_gpus(name, half, tf32, single, card):
    device = torch.device("cuda", 0)
    card(name)
    assert peak_flops(device, torch.bfloat16) == peak_flops(device, torch.float16) == half * 1e12
    assert peak_flops(device, torch.float32) == single * 1e12
    card(name, tf32=True)
    assert peak_flops(device, torch.float32) == tf32 * 1e12
    assert peak_flops(device, torch.bfloat16) == half * 1e12


def test_peak_flops_of_other_devices_are_measured(card):
    card("NVIDIA GeForce GTX 750")
    assert peak_flops(torch.device("cuda", 0), torch.bfloat16) == 5.0
    assert peak_flops(CPU, torch.float32) == 5.0


def test_peak_flops_are_measured_once(card, monkeypatch):
    measured = []
    monkeypatch.setattr(flops_module, "_measure_peak", lambda *device: measured.append(device) or 5.0)
    for _ in range(3):
        peak_flops(CPU, torch.float32)
    assert measured == [(CPU, torch.float32)]


def test_peak_flops_are_of_the_fastest_product(monkeypatch):
    """The largest product takes 4, 3, 1 and 2 seconds."""
    times = iter([0.0] * 16 + [4.0, 3.0, 1.0, 2.0])
    monkeypatch.setattr(flops_module, "_time_product", lambda a, b: next(times))
    assert _measure_peak(CPU, torch.float32) == 2 * 2048**3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_peak_measurement_stops_at_a_long_enough_product(dtype, monkeypatch):
    """In float16, a product of 2048 x 2048 took half a minute on a CPU."""
    tried = []

    def time_product(a, b):
        tried.append((a.dtype, len(a)))
        return (len(a) / 512) ** 3

    monkeypatch.setattr(flops_module, "_time_product", time_product)
    assert _measure_peak(CPU, dtype) == 2 * 256**3 / 0.125
    assert tried == [(dtype, 128)] * 4 + [(dtype, 256)] * 4


def test_flops_trial_lengths_fit_the_smallest_model():
    """Trial texts have at most 16 tokens."""
    assert (
        counted(AutoModelForMaskedLM.from_config(CONFIG_MAPPING["bert"](**BERT_LIKE | {"vocab_size": 5}))) is not None
    )
