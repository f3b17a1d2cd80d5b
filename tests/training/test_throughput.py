"""Operations by formula, figures by hand, and the peaks of data sheets."""

import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers import (
    CONFIG_MAPPING,
    AutoModelForMaskedLM,
    AutoModelForNextSentencePrediction,
    AutoModelForPreTraining,
    BertConfig,
    BertForMaskedLM,
    BertForNextSentencePrediction,
)

from cloze.models.sparse_prediction import predict_masked_positions
from cloze.objectives.metrics import MASKED_TOKENS
from cloze.training import throughput as meters
from cloze.training.throughput import Flops, Meter, count_flops, measure_peak, peak_flops
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


# Operations


@pytest.mark.parametrize(
    ("layers", "width", "feed_forward", "vocabulary"), [(1, 16, 32, 100), (2, 32, 96, 300), (5, 24, 96, 77)]
)
def test_flops_of_bert_equal_the_formula(layers, width, feed_forward, vocabulary):
    """L (8 d^2 + 4 d f) a token, 4 d L a square, 2 d^2 + 2 d V a label; the last feed-forward is for labels only."""
    flops = counted(bert(layers, width, feed_forward, vocabulary))
    last = 4 * width * feed_forward
    assert flops.a_token == pytest.approx(layers * (8 * width**2 + 4 * width * feed_forward) - last, rel=1e-9)
    assert flops.a_square == pytest.approx(4 * width * layers, rel=1e-9)
    assert flops.a_label == pytest.approx(2 * width**2 + 2 * width * vocabulary + last, rel=1e-9)
    assert flops.an_example == pytest.approx(0, abs=1e-3)
    length, labels = 64, 10
    forward = layers * (8 * width**2 + 4 * width * feed_forward) * length + 4 * length**2 * width * layers
    forward += labels * (2 * width**2 + 2 * width * vocabulary) - last * (length - labels)
    assert flops.training(1, length, length**2, labels) == pytest.approx(3 * forward, rel=1e-9)


def test_flops_of_a_pair_are_pooler_and_classifier():
    flops = counted(bert(2, 32, 96, 300, BertForNextSentencePrediction), masks=False)
    assert flops.an_example == pytest.approx(2 * 32**2 + 2 * 32 * 2)
    assert flops.a_token == pytest.approx(2 * (8 * 32**2 + 4 * 32 * 96))
    assert flops.a_label == pytest.approx(0, abs=1e-3)


def test_flops_add_up_over_examples():
    flops = Flops(1000, 100, 10, 7)
    assert flops.training(2, 30, 500, 4) == 3 * (2000 + 3000 + 5000 + 28)


def test_flops_of_a_full_head_count_every_token():
    """So that its operations are not left out; and nothing more for a label."""

    class Mixing(BertForMaskedLM):
        def forward(self, input_ids, **kwargs):
            hidden = self.bert(input_ids).last_hidden_state
            return {"logits": self.cls(hidden + hidden.roll(1, dims=1))}

    flops = counted(bert(2, 32, 96, 300, Mixing))
    assert flops.a_token == pytest.approx(2 * (8 * 32**2 + 4 * 32 * 96) + 2 * 32**2 + 2 * 32 * 300)
    assert flops.a_label == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    ("family", "auto_model"),
    [
        *((family, AutoModelForMaskedLM) for family in [*FAMILIES, "fnet"]),
        *((family, AutoModelForPreTraining) for family in ("albert", "mobilebert", "big_bird")),
        ("megatron-bert", AutoModelForNextSentencePrediction),
    ],
)
def test_flops_of_every_family_are_counted(family, auto_model):
    """Those of the weights at least, which are 2 a token and weight of the layers."""
    config = CONFIG_MAPPING[family](**(FAMILIES | PAIR_FAMILIES)[family][1] | {"vocab_size": 500, "pad_token_id": 0})
    flops = counted(auto_model.from_config(config), auto_model is not AutoModelForNextSentencePrediction)
    assert all(map(math.isfinite, vars(flops).values()))
    assert 1000 < flops.a_token < 100_000
    if auto_model is AutoModelForMaskedLM:
        assert 2 * 8 * 500 <= flops.a_label < 2 * 16 * 500 + 3000


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


# The meter


def batch_of(lengths, width, labels=None):
    batch = {"attention_mask": (torch.arange(width) < torch.tensor(lengths)[:, None]).long()}
    if labels is not None:
        batch["labels"] = torch.full((len(lengths), width), -100)
        batch["labels"].view(-1)[:labels] = 7
    return batch


@pytest.fixture
def meter():
    """Of a device of 1000 operations a second, and a model with a different price of each thing."""
    return Meter(Flops(1000, 100, 10, 1), 1000.0, CPU)


def test_throughput_of_given_batches(meter):
    """Lengths 4 and 2 in rows of 4, then 3 in one of 8, and 5 labels: 9 tokens of 16 places, squares 16 + 4 + 9."""
    accelerator = Accelerator(cpu=True)
    meter.add(batch_of([4, 2], 4, labels=3))
    meter.add(batch_of([3], 8, labels=2))
    assert meter.totals(accelerator).tolist() == [3, 16, 9, 29, 5]
    operations = 3 * (3 * 1000 + 9 * 100 + 29 * 10 + 5 * 1)
    assert operations == 12_585
    figures = meter.since_last(accelerator, 2.0)
    assert figures == {"tokens_per_second": 4.5, "non_padding_fraction": 0.5625, "mfu": round(12_585 / 2 / 1000, 4)}


def test_throughput_covers_the_steps_since_the_last_log(meter):
    accelerator = Accelerator(cpu=True)
    meter.add(batch_of([4, 2], 4, labels=3))
    meter.since_last(accelerator, 2.0)
    meter.add(batch_of([1, 1, 1], 2, labels=0))
    figures = meter.since_last(accelerator, 2.5)
    assert figures == {"tokens_per_second": 6.0, "non_padding_fraction": 0.5, "mfu": round(3 * 3330 / 0.5 / 1000, 4)}
    assert meter.totals(accelerator).tolist() == [5, 14, 9, 23, 3]


def test_mfu_is_relative_to_all_processes(meter):
    one, four = (meter.figures(np.array([3, 16, 9, 29, 5]), 2.0, processes) for processes in (1, 4))
    assert one["mfu"] == pytest.approx(6.2925)
    assert four["mfu"] == pytest.approx(1.5731)
    assert one["tokens_per_second"] == four["tokens_per_second"] == 4.5


def test_throughput_of_batches_without_labels(meter):
    meter.add(batch_of([4, 2], 4))
    assert meter.totals(Accelerator(cpu=True)).tolist() == [2, 8, 6, 20, 0]


def test_mfu_is_absent_without_flops():
    meter = Meter(None, math.nan, CPU)
    meter.add(batch_of([4, 4], 4, labels=1))
    figures = meter.since_last(Accelerator(cpu=True), 0.5)
    assert figures == {"tokens_per_second": 16.0, "non_padding_fraction": 1.0}


def test_throughput_does_not_synchronise_the_device():
    """On the meta device there are no values to ask for."""
    meta = torch.device("meta")
    meter = Meter(None, 1.0, meta)
    meter.add({name: values.to(meta) for name, values in batch_of([4, 2], 4, labels=3).items()})
    assert (meter.examples, meter.places) == (2, 8)


# Peaks


@pytest.fixture
def card(monkeypatch):
    """``card(name)`` puts a card of that name into this machine, which measures 5 operations a second.

    TF32 is set as transformers sets it for --tf32 and --torch_compile.
    """
    before = torch.backends.fp32_precision
    peak_flops.cache_clear()
    monkeypatch.setattr(meters, "measure_peak", lambda device, dtype: 5.0)

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
    monkeypatch.setattr(meters, "measure_peak", lambda *device: measured.append(device) or 5.0)
    for _ in range(3):
        peak_flops(CPU, torch.float32)
    assert measured == [(CPU, torch.float32)]


def test_peak_flops_are_of_the_fastest_product(monkeypatch):
    """The largest product takes 4, 3, 1 and 2 seconds."""
    times = iter([0.0] * 16 + [4.0, 3.0, 1.0, 2.0])
    monkeypatch.setattr(meters, "time_product", lambda a, b: next(times))
    assert measure_peak(CPU, torch.float32) == 2 * 2048**3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_peak_measurement_stops_at_a_long_enough_product(dtype, monkeypatch):
    """As with float16 on a CPU: of 2048 numbers a side, one took half a minute."""
    tried = []

    def time_product(a, b):
        tried.append((a.dtype, len(a)))
        return (len(a) / 512) ** 3

    monkeypatch.setattr(meters, "time_product", time_product)
    assert measure_peak(CPU, dtype) == 2 * 256**3 / 0.125
    assert tried == [(dtype, 128)] * 4 + [(dtype, 256)] * 4


def test_flops_trial_lengths_fit_the_smallest_model():
    """Its texts are of 16 tokens at most."""
    assert (
        counted(AutoModelForMaskedLM.from_config(CONFIG_MAPPING["bert"](**BERT_LIKE | {"vocab_size": 5}))) is not None
    )
