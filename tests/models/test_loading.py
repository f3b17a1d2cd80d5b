"""Checks in place of device-side asserts, new configs, and weights loaded from a checkpoint."""

import copy
import inspect

import pytest
import torch
from torch.nn import functional
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForNextSentencePrediction,
    AutoModelForPreTraining,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING,
    MODEL_FOR_PRETRAINING_MAPPING,
)

from cloze.config.arguments import ModelArguments
from cloze.errors import UserError
from cloze.models.inspection import build_on_meta, count_positions, uses_attention_mask
from cloze.models.loading import (
    check_model,
    describe_model,
    load_config,
    load_model,
    sync_config_with_tokenizer,
)
from cloze.objectives.metrics import MASKED_TOKENS, SENTENCE_PAIRS
from cloze.tasks.causal_lm import CAUSAL_LM
from cloze.tasks.masked_lm import MASKED_LM
from cloze.tasks.next_sentence import NEXT_SENTENCE
from cloze.tasks.pretraining import PRETRAINING
from tests.utils import FAMILIES, PAIR_FAMILIES


def config_of(family, tokenizers, **settings):
    kind, tiny = (FAMILIES | PAIR_FAMILIES)[family]
    config = CONFIG_MAPPING[family](**tiny | settings)
    sync_config_with_tokenizer(config, tokenizers[kind])
    return config


def tokenizer_of(family, tokenizers, **attributes):
    tokenizer = copy.deepcopy(tokenizers[(FAMILIES | PAIR_FAMILIES)[family][0]])
    for name, value in attributes.items():
        setattr(tokenizer, name, value)
    return tokenizer


def loaded(checkpoint_path, task=MASKED_LM, **settings):
    model_args = ModelArguments(model_name_or_path=str(checkpoint_path), **settings)
    return load_model(model_args, load_config(model_args, task), task, seed=0)


# Positions


@pytest.mark.parametrize("family", FAMILIES)
def test_usable_positions_by_family(family, tokenizers):
    """transformers#10832: RoBERTa counts from padding_idx + 1, so fewer than 66 positions are usable."""
    config = config_of(family, tokenizers)
    pad = tokenizers["byte_level"].pad_token_id
    expected = {"roberta": 66 - pad - 1, "modernbert": 64}.get(family, 66)
    assert count_positions(build_on_meta(config, MASKED_LM), config) == expected


@pytest.mark.parametrize("pad", [0, 1, 5])
def test_usable_positions_of_roberta_exclude_the_padding_offset(pad, tokenizers):
    """transformers#10832: the model accepts the longest text, and fails with one more token."""
    config = config_of("roberta", tokenizers, max_position_embeddings=20)
    config.pad_token_id = pad
    positions = count_positions(build_on_meta(config, MASKED_LM), config)
    assert positions == 20 - pad - 1
    model = AutoModelForMaskedLM.from_config(config)
    text = torch.full((1, positions + 1), 7)
    assert model(text[:, :-1]).logits.shape == (1, positions, 500)
    with pytest.raises((IndexError, RuntimeError), match=r"index .*out of"):
        model(text)


def test_build_on_meta_takes_no_memory(tokenizers):
    model = build_on_meta(
        config_of("bert", tokenizers, hidden_size=4096, intermediate_size=16_384, num_hidden_layers=40), MASKED_LM
    )
    assert model.num_parameters() > 8e9
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("family", "positions", "tokenizer_max", "expected"),
    [
        ("bert", 66, 10**30, 66),
        ("bert", 66, 32, 32),
        ("bert", 512, 512, 512),
        ("bert", 4096, 10**30, 1024),
        ("roberta", 514, 512, 512),
        ("modernbert", 8192, 8192, 1024),
    ],
)
def test_default_max_seq_length(family, positions, tokenizer_max, expected, tokenizers):
    config = config_of(family, tokenizers, max_position_embeddings=positions)
    if family == "roberta":
        config.pad_token_id = 1
    tokenizer = tokenizer_of(family, tokenizers, model_max_length=tokenizer_max)
    assert check_model(config, tokenizer, MASKED_LM, None, False) == expected


def test_max_seq_length_is_checked_against_the_model(tokenizers):
    """transformers#10832: a message instead of an assert; the tokenizer's limit is not enforced."""
    config, tokenizer = config_of("bert", tokenizers), tokenizer_of("bert", tokenizers, model_max_length=16)
    assert check_model(config, tokenizer, MASKED_LM, 66, False) == 66
    with pytest.raises(UserError, match="--max_seq_length 67 is more than the model's 66 positions"):
        check_model(config, tokenizer, MASKED_LM, 67, False)


@pytest.mark.parametrize(
    ("attributes", "message"), [({"mask_token": None}, "no mask token"), ({"pad_token": None}, "no padding token")]
)
def test_missing_mask_or_padding_token_is_an_error(attributes, message, tokenizers):
    """transformers#10832."""
    with pytest.raises(UserError, match=message):
        check_model(
            config_of("bert", tokenizers), tokenizer_of("bert", tokenizers, **attributes), MASKED_LM, None, False
        )


def test_vocabulary_smaller_than_the_tokenizer_is_an_error(tokenizers):
    """transformers#10832: the tokenizer has one id more than the embedding has rows."""
    config, tokenizer = config_of("bert", tokenizers), tokenizer_of("bert", tokenizers)
    tokenizer.add_tokens(["tidepool"])
    with pytest.raises(UserError, match="the tokenizer has 501 tokens, but the model's vocabulary only 500"):
        check_model(config, tokenizer, MASKED_LM, None, False)
    sync_config_with_tokenizer(config, tokenizer)
    assert check_model(config, tokenizer, MASKED_LM, None, False) == 66


# Configs


@pytest.mark.parametrize("family", FAMILIES)
def test_sync_config_with_tokenizer_sets_vocabulary_and_special_ids(family, tokenizers):
    tokenizer = tokenizer_of(family, tokenizers)
    config = CONFIG_MAPPING[family](**FAMILIES[family][1])
    sync_config_with_tokenizer(config, tokenizer)
    assert config.vocab_size == 500
    assert config.pad_token_id == tokenizer.pad_token_id
    for name in ("bos", "eos", "cls", "sep", "mask"):
        if hasattr(config, f"{name}_token_id"):
            assert getattr(config, f"{name}_token_id") == getattr(tokenizer, f"{name}_token_id")
    embeddings = AutoModelForMaskedLM.from_config(config).get_input_embeddings()
    assert (embeddings.num_embeddings, embeddings.padding_idx) == (500, tokenizer.pad_token_id)


@pytest.mark.parametrize(
    ("overrides", "size"),
    [
        (None, 500),
        ("hidden_size=16", 500),
        ("vocab_size=512", 512),
        ("hidden_size=16,vocab_size=512", 512),
        ("type_vocab_size=1", 500),
    ],
)
def test_vocab_size_override_is_kept(overrides, size, tokenizers):
    """For example a size rounded up for the GPU; without an override, the tokenizer's size."""
    config = load_config(ModelArguments(model_type="bert", config_overrides=overrides), MASKED_LM)
    sync_config_with_tokenizer(config, tokenizers["wordpiece"], overrides)
    assert config.vocab_size == size


def test_config_overrides():
    model_args = ModelArguments(model_type="bert", config_overrides="hidden_size=48,hidden_dropout_prob=0.3")
    config = load_config(model_args, MASKED_LM)
    assert (config.hidden_size, config.hidden_dropout_prob, config.num_hidden_layers) == (48, 0.3, 12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "brt"}, "--model_type brt is unknown: did you mean b"),
        ({"model_type": "gpt2"}, "gpt2 has no masked-language-modelling head"),
        ({"model_type": "bert", "config_overrides": "hiden_size=48"}, "no setting 'hiden_size': did you mean hidden_"),
        ({"model_type": "bert", "config_overrides": "hidden_size=many"}, "--config_overrides hidden_size=many: "),
    ],
)
def test_wrong_configs_are_errors(settings, message):
    with pytest.raises(UserError, match=message):
        load_config(ModelArguments(**settings), MASKED_LM)


def test_config_that_cannot_be_built_is_an_error(tokenizers):
    with pytest.raises(UserError, match=r"cannot build a bert model from this config: .*--config_overrides"):
        build_on_meta(config_of("bert", tokenizers, num_attention_heads=5), MASKED_LM)


# Weights


@pytest.mark.parametrize("family", FAMILIES)
def test_complete_checkpoint_loads_without_warning(family, checkpoint, caplog, capsys):
    model = loaded(checkpoint(family))
    expected = AutoModelForMaskedLM.from_pretrained(checkpoint(family))
    for name, weights in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], weights), name
    assert "new weights, not loaded from" not in caplog.text + "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("family", "head", "layers"),
    [
        ("bert", "cls.predictions", ("transform.dense", "transform.LayerNorm")),
        ("roberta", "lm_head", ("dense", "layer_norm")),
    ],
)
def test_new_weights_are_named(family, head, layers, checkpoint, tmp_path, caplog):
    """A bare encoder has no head; all of its weights are loaded."""
    encoder = AutoModel.from_pretrained(checkpoint(family))
    encoder.save_pretrained(tmp_path)
    model = loaded(tmp_path)
    (record,) = [record for record in caplog.records if "new weights, not loaded from" in record.getMessage()]
    assert record.levelname == "WARNING"
    assert str(tmp_path) in record.getMessage()
    named = record.getMessage().rpartition("trained: ")[2].split(", ")
    new = ["bias", "decoder.bias", *(f"{layer}.{part}" for layer in layers for part in ("weight", "bias"))]
    assert sorted(named) == sorted(f"{head}.{name}" for name in new)
    taken = model.base_model.state_dict()
    assert len(taken) > 30
    assert all(torch.equal(weights, encoder.state_dict()[name]) for name, weights in taken.items())


def test_weights_are_loaded_in_single_precision(checkpoint, tmp_path):
    """Also a bfloat16 checkpoint, unless --dtype asks for bfloat16: small updates would be lost."""
    AutoModelForMaskedLM.from_pretrained(checkpoint("bert"), dtype=torch.bfloat16).save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).dtype == torch.bfloat16

    def dtypes(model):
        return {parameter.dtype for parameter in model.parameters()}

    assert dtypes(loaded(tmp_path)) == {torch.float32}
    assert dtypes(loaded(tmp_path, dtype="auto")) == {torch.bfloat16}
    assert dtypes(loaded(checkpoint("bert"), dtype="bfloat16")) == {torch.bfloat16}


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_new_model_has_the_dtype_asked_for(name, checkpoint, tmp_path):
    """From the config of a bfloat16 checkpoint."""
    AutoModelForMaskedLM.from_pretrained(checkpoint("bert"), dtype=torch.bfloat16).save_pretrained(tmp_path)
    model_args = ModelArguments(config_name=str(tmp_path), dtype=name)
    model = load_model(model_args, load_config(model_args, MASKED_LM), MASKED_LM, seed=0)
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, name)}


@pytest.mark.parametrize(("name", "calls"), {None: 2, "sdpa": 2, "eager": 0}.items(), ids=str)
def test_model_runs_the_attention_asked_for(name, calls, checkpoint, monkeypatch):
    """Also Falcon, whose attention transformers can choose only while it builds the model."""
    fused, counts = functional.scaled_dot_product_attention, []
    monkeypatch.setattr(
        functional, "scaled_dot_product_attention", lambda *args, **kwargs: counts.append(1) or fused(*args, **kwargs)
    )
    sizes = "hidden_size=32,num_hidden_layers=2,num_attention_heads=2,vocab_size=120"
    falcon = ModelArguments(model_type="falcon", config_overrides=sizes, attn_implementation=name)
    for model in (
        loaded(checkpoint("bert"), attn_implementation=name),
        load_model(falcon, load_config(falcon, CAUSAL_LM), CAUSAL_LM, seed=0),
    ):
        counts.clear()
        model(input_ids=torch.arange(5, 13)[None])
        assert len(counts) == calls


def test_unloadable_weights_are_errors(checkpoint, tmp_path):
    model_args = ModelArguments(model_name_or_path=checkpoint("bert"))
    config = load_config(model_args, MASKED_LM)
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"--model_name_or_path {tmp_path}: the weights cannot be loaded"):
        load_model(ModelArguments(model_name_or_path=str(tmp_path)), config, MASKED_LM, seed=0)


# Tasks


@pytest.mark.parametrize("task", [MASKED_LM, NEXT_SENTENCE, PRETRAINING], ids=lambda task: task.title)
def test_auto_class_knows_every_model_type_of_the_task(task):
    mapping = {
        AutoModelForMaskedLM: MODEL_FOR_MASKED_LM_MAPPING,
        AutoModelForNextSentencePrediction: MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING,
        AutoModelForPreTraining: MODEL_FOR_PRETRAINING_MAPPING,
    }[task.auto_model]
    assert len(set(task.model_types)) == len(task.model_types) >= 5
    assert all(CONFIG_MAPPING[model_type] in mapping for model_type in task.model_types)


def labels_of(model_type):
    """The labels that the class of AutoModelForPreTraining for this type learns from."""
    model = MODEL_FOR_PRETRAINING_MAPPING[CONFIG_MAPPING[model_type]]
    known = inspect.signature(model.forward).parameters.keys()
    return known & {"labels", "next_sentence_label", "sentence_order_label"}


@pytest.mark.parametrize("model_type", PRETRAINING.model_types)
def test_pretraining_types_have_both_heads(model_type):
    second = "sentence_order_label" if model_type == "albert" else "next_sentence_label"
    assert labels_of(model_type) == {"labels", second}


@pytest.mark.parametrize("model_type", ["distilbert", "roberta", "electra", "deberta-v2", "xlm-roberta", "longformer"])
def test_other_types_have_one_pretraining_head(model_type):
    """AutoModelForPreTraining accepts them, but their models have no second head."""
    assert labels_of(model_type) == {"labels"}
    assert model_type not in PRETRAINING.model_types


def test_next_sentence_model_types():
    assert set(NEXT_SENTENCE.model_types) == {
        config.model_type for config in MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING
    }
    assert set(NEXT_SENTENCE.model_types) < set(PRETRAINING.model_types)
    assert "bert" in NEXT_SENTENCE.model_types
    assert not {"albert", "big_bird", "distilbert", "roberta", "electra"} & set(NEXT_SENTENCE.model_types)


@pytest.mark.parametrize(
    ("task", "objectives"),
    [
        (MASKED_LM, {"": MASKED_TOKENS}),
        (NEXT_SENTENCE, {"": SENTENCE_PAIRS}),
        (PRETRAINING, {"mlm_": MASKED_TOKENS, "nsp_": SENTENCE_PAIRS}),
    ],
)
def test_objectives_by_task(task, objectives):
    assert task.objectives == objectives
    assert task.takes_positions == (MASKED_TOKENS in objectives.values())


@pytest.mark.parametrize("family", PAIR_FAMILIES)
def test_logits_of_every_pretraining_model_are_found(family, pair_checkpoint):
    """Logits of masked tokens and of pairs, whatever their names in the architecture."""
    model = loaded(pair_checkpoint(family), PRETRAINING)
    ids, types = torch.tensor([[2, 9, 3, 11, 3]] * 2), torch.tensor([[0, 0, 0, 1, 1]] * 2)
    outputs = model(input_ids=ids, token_type_ids=types)
    assert MASKED_TOKENS.logits_of(outputs).shape == (2, 5, 500)
    assert SENTENCE_PAIRS.logits_of(outputs).shape == (2, 2)


@pytest.mark.parametrize("family", sorted(set(PAIR_FAMILIES) & set(NEXT_SENTENCE.model_types)))
def test_logits_of_every_next_sentence_model_are_found(family, pair_checkpoint):
    """The pair head comes from the checkpoint; only the head for masked tokens is dropped."""
    model = loaded(pair_checkpoint(family), NEXT_SENTENCE)
    outputs = model(input_ids=torch.tensor([[2, 9, 3, 11, 3]]), token_type_ids=torch.tensor([[0, 0, 0, 1, 1]]))
    assert SENTENCE_PAIRS.logits_of(outputs).shape == (1, 2)


@pytest.mark.parametrize("family", PAIR_FAMILIES)
def test_checkpoint_with_both_heads_has_no_new_weights(family, pair_checkpoint, caplog):
    model = loaded(pair_checkpoint(family), PRETRAINING)
    expected = AutoModelForPreTraining.from_pretrained(pair_checkpoint(family))
    for name, weights in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], weights), name
    assert "new weights, not loaded from" not in caplog.text


@pytest.mark.parametrize("task", [NEXT_SENTENCE, PRETRAINING], ids=lambda task: task.title)
def test_new_pair_head_is_warned_about(task, checkpoint, caplog):
    """A masked language model has no pair head, and no pooler below it."""
    loaded(checkpoint("bert"), task)
    (message,) = [
        record.getMessage() for record in caplog.records if "new weights, not loaded from" in record.getMessage()
    ]
    named = message.rpartition("trained: ")[2].split(", ")
    assert named == [
        "bert.pooler.dense.bias",
        "bert.pooler.dense.weight",
        "cls.seq_relationship.bias",
        "cls.seq_relationship.weight",
    ]


@pytest.mark.parametrize(
    ("task", "model_type", "message"),
    [
        *(
            (task, model_type, rf"{model_type} has no next-sentence head.*: use one of bert, .*, or run_mlm\.py")
            for task in (NEXT_SENTENCE, PRETRAINING)
            for model_type in ("distilbert", "roberta", "electra", "deberta-v2", "modernbert", "gpt2")
        ),
        (NEXT_SENTENCE, "albert", r"albert has no next-sentence head: use one of bert, .*, or run_mlm\.py"),
        (NEXT_SENTENCE, "big_bird", r"big_bird has no next-sentence head: use one of bert, .*, or run_mlm\.py"),
    ],
)
def test_model_without_a_pair_head_is_refused(task, model_type, message):
    """transformers#10832."""
    with pytest.raises(UserError, match=f"^--model_type: {message}$"):
        load_config(ModelArguments(model_type=model_type), task)


def test_model_without_room_for_text_is_refused(tokenizers):
    config = config_of("bert", tokenizers, max_position_embeddings=4)
    with pytest.raises(UserError, match="input has at most 4 tokens, too few for text: raise"):
        check_model(config, tokenizer_of("bert", tokenizers), MASKED_LM, None, False)


def test_config_that_needs_a_token_of_the_tokenizer_is_refused(tokenizers):
    """GPT-2's tokenizer has no padding token, and ModernBERT's decoder cannot be without one."""
    with pytest.raises(UserError, match=r"^modernbert-decoder needs a tokenizer with a pad token: set"):
        sync_config_with_tokenizer(CONFIG_MAPPING["modernbert-decoder"](), tokenizers["gpt2"])


def test_model_of_text_and_images_is_refused():
    """The settings of its text are in a config of their own."""
    with pytest.raises(UserError, match=r"^gemma3: the config of gemma3 has no vocab_size of its own, as"):
        load_config(ModelArguments(model_type="gemma3"), CAUSAL_LM)


@pytest.mark.parametrize("model_type", ["albert", "big_bird", "bert"])
def test_model_with_a_pair_head_is_accepted(model_type):
    assert load_config(ModelArguments(model_type=model_type), PRETRAINING).model_type == model_type


@pytest.mark.parametrize("family", ["bert", "albert", "fnet"])
@pytest.mark.parametrize("task", [NEXT_SENTENCE, PRETRAINING], ids=lambda task: task.title)
def test_type_vocab_size_1_is_refused_for_pairs(task, family, tokenizers):
    """transformers#10832: the index would be out of range; masked tokens need only one type."""
    config, tokenizer = config_of(family, tokenizers, type_vocab_size=1), tokenizer_of(family, tokenizers)
    with pytest.raises(UserError, match=r"type_vocab_size is 1, .*: use run_mlm\.py, or .*type_vocab_size=2$"):
        check_model(config, tokenizer, task, 32, False)
    assert check_model(config, tokenizer, MASKED_LM, 32, False) == 32
    if family in task.model_types:
        assert check_model(config_of(family, tokenizers), tokenizer, task, 32, False) == 32


@pytest.mark.parametrize("family", PAIR_FAMILIES)
def test_usable_positions_of_pair_models(family, tokenizers):
    """transformers#10832: the limit does not depend on the head."""
    config, tokenizer = config_of(family, tokenizers), tokenizer_of(family, tokenizers)
    for task in (PRETRAINING, NEXT_SENTENCE, MASKED_LM):
        if family in task.model_types:
            assert count_positions(build_on_meta(config, task), config) == 66
            assert check_model(config, tokenizer, task, None, False) == 66
            with pytest.raises(UserError, match="--max_seq_length 67 is more than the model's 66 positions"):
                check_model(config, tokenizer, task, 67, False)


def test_next_sentence_model_needs_no_mask_token(tokenizers):
    config, tokenizer = config_of("bert", tokenizers), tokenizer_of("bert", tokenizers, mask_token=None)
    assert check_model(config, tokenizer, NEXT_SENTENCE, 32, False) == 32
    with pytest.raises(UserError, match="no mask token"):
        check_model(config, tokenizer, PRETRAINING, 32, False)


@pytest.mark.parametrize("family", [*FAMILIES, *sorted(set(PAIR_FAMILIES) - set(FAMILIES))])
def test_only_models_without_attention_mask_need_fixed_length_padding(family, tokenizers):
    """FNet mixes padding with text: the loss of an example would depend on its batch."""
    model = build_on_meta(config_of(family, tokenizers), MASKED_LM)
    assert uses_attention_mask(model) == (family != "fnet")


def test_fnet_logits_depend_on_the_padded_length(pair_checkpoint):
    """Therefore FNet needs a fixed length; BERT's attention mask hides the padding."""
    inputs = {"input_ids": [[2, 9, 3, 11, 3]], "token_type_ids": [[0, 0, 0, 1, 1]], "attention_mask": [[1] * 5]}
    changes = {}
    for family in ("fnet", "bert"):
        model = loaded(pair_checkpoint(family), PRETRAINING).eval()
        logits = []
        for padding in (0, 4):
            widened = {name: functional.pad(torch.tensor(values), (0, padding)) for name, values in inputs.items()}
            if family == "fnet":
                del widened["attention_mask"]
            logits.append(MASKED_TOKENS.logits_of(model(**widened))[:, :5].detach())
        changes[family] = (logits[0] - logits[1]).abs().max().item()
    assert changes["bert"] < 1e-6
    assert changes["fnet"] > 1e-3


def test_model_description_has_size_and_origin(pair_checkpoint):
    path = pair_checkpoint("bert")
    model = loaded(path, PRETRAINING)
    size = f"{sum(weights.numel() for weights in model.parameters()) / 1e6:.1f}"
    assert describe_model(model, ModelArguments(model_name_or_path=path)) == (
        f"BertForPreTraining, {size} million parameters, from {path}"
    )
    assert describe_model(model, ModelArguments(model_type="bert")).endswith("parameters, from scratch")
