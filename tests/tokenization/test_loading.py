"""Load tokenizers from any of their file formats."""

import json

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer, BertConfig

from cloze.config.arguments import ModelArguments
from cloze.errors import UserError
from cloze.inference.session import load_trained
from cloze.tokenization.loading import load_tokenizer
from cloze.tokenization.properties import fingerprint
from tests.utils import TASKS

TEXT = "Müller sieht den Wald, Été und Käse"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROLES = ["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"]
TINY = "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=32,max_position_embeddings=66"


def cased_backend(names=SPECIAL):
    """Train a WordPiece tokenizer of the tokenizers library that keeps case and accents."""
    backend = Tokenizer(models.WordPiece(unk_token=names[1]))
    backend.normalizer, backend.pre_tokenizer = normalizers.NFC(), pre_tokenizers.BertPreTokenizer()
    backend.train_from_iterator([TEXT] * 9, trainers.WordPieceTrainer(vocab_size=200, special_tokens=names))
    backend.post_processor = processors.TemplateProcessing(
        single=f"{names[2]} $A {names[3]}",
        pair=f"{names[2]} $A {names[3]} $B:1 {names[3]}:1",
        special_tokens=[(names[2], 2), (names[3], 3)],
    )
    return backend


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "tokenizer"
    path.mkdir()
    return path


def load(name, model_type="bert"):
    return load_tokenizer(ModelArguments(tokenizer_name=str(name), model_type=model_type), None)


def assert_loads_again(tokenizer, path, model_type="bert"):
    """Assert that AutoTokenizer loads the saved tokenizer unchanged."""
    tokenizer.save_pretrained(path)
    CONFIG_MAPPING[model_type]().save_pretrained(path)
    again = AutoTokenizer.from_pretrained(path)
    assert again(TEXT, TEXT) == tokenizer(TEXT, TEXT)
    assert again.special_tokens_map == tokenizer.special_tokens_map
    assert fingerprint(again) == fingerprint(tokenizer)


# tokenizer.json


@pytest.mark.parametrize("configured", [False, True])
@pytest.mark.parametrize("model_type", ["bert", "distilbert", "electra", "roberta", "modernbert", "albert"])
def test_tokenizer_json_is_loaded_unchanged(model_type, configured, folder, tmp_path):
    """With a config.json, transformers 5 loads it as a lower-casing BERT tokenizer (transformers#2742)."""
    backend = cased_backend()
    backend.save(str(folder / "tokenizer.json"))
    if configured:
        CONFIG_MAPPING[model_type]().save_pretrained(folder)
    tokenizer = load(folder, model_type)
    assert tokenizer.tokenize("Müller Wald") == ["Müller", "Wald"]
    assert tokenizer(TEXT, TEXT)["input_ids"] == backend.encode(TEXT, TEXT).ids
    assert [getattr(tokenizer, role) for role in ROLES] == SPECIAL
    assert ("token_type_ids" in tokenizer(TEXT)) == (model_type in ("bert", "distilbert", "electra"))
    assert_loads_again(tokenizer, tmp_path / "saved", model_type)


def test_special_tokens_with_other_names_are_kept(folder, tmp_path):
    names = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
    backend = cased_backend(names)
    backend.enable_padding(pad_token="<pad>")
    backend.save(str(folder / "tokenizer.json"))
    tokenizer = load(folder)
    assert [getattr(tokenizer, role) for role in ROLES] == names
    assert tokenizer("Wald<mask>Wald")["input_ids"][2] == 4
    assert_loads_again(tokenizer, tmp_path / "saved")


def test_settings_apply_to_tokenizer_json(folder):
    cased_backend(["[PAD]", "[UNK]", "[BOS]", "[EOS]", "[HIDE]"]).save(str(folder / "tokenizer.json"))
    settings = {"cls_token": "[BOS]", "sep_token": "[EOS]", "mask_token": "[HIDE]", "model_max_length": 77}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load(folder)
    assert [tokenizer.cls_token, tokenizer.mask_token, tokenizer.model_max_length] == ["[BOS]", "[HIDE]", 77]
    assert len(tokenizer) == cased_backend().get_vocab_size(), "nothing is added"


@pytest.mark.parametrize("lower_case", [False, True])
def test_do_lower_case_sets_the_normalizer_of_tokenizer_json(lower_case, folder):
    backend = cased_backend()
    backend.normalizer = normalizers.BertNormalizer(lowercase=not lower_case, strip_accents=False)
    backend.save(str(folder / "tokenizer.json"))
    assert load(folder).backend_tokenizer.normalizer.lowercase != lower_case
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower_case}))
    assert load(folder).backend_tokenizer.normalizer.lowercase == lower_case


@pytest.mark.parametrize("family", ["bert", "distilbert", "electra", "roberta", "modernbert", "albert", "deberta-v2"])
def test_tokenizers_that_transformers_saves_load_as_in_transformers(family, checkpoint, tmp_path):
    tokenizer, own = load(checkpoint(family)), AutoTokenizer.from_pretrained(checkpoint(family))
    assert type(tokenizer) is type(own)
    assert tokenizer(TEXT, TEXT) == own(TEXT, TEXT)
    assert [fingerprint(tokenizer), tokenizer.special_tokens_map] == [fingerprint(own), own.special_tokens_map]
    assert_loads_again(tokenizer, tmp_path, AutoConfig.from_pretrained(checkpoint(family)).model_type)


def test_hub_names_load_like_folders(tmp_path):
    revision = "0" * 40
    snapshot = tmp_path / "models--me--cased" / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (tmp_path / "models--me--cased" / "refs").mkdir()
    (tmp_path / "models--me--cased" / "refs" / "main").write_text(revision)
    cased_backend().save(str(snapshot / "tokenizer.json"))
    BertConfig().save_pretrained(snapshot)
    model_args = ModelArguments(model_name_or_path="me/cased", cache_dir=str(tmp_path))
    assert load_tokenizer(model_args, None).tokenize("Müller Wald") == ["Müller", "Wald"]


# Vocabularies


def write_vocabulary(folder, *tokens):
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *tokens]) + "\n")


@pytest.mark.parametrize(
    ("vocabulary", "tokens", "case"),
    [
        ("M ##ü ##l ##e ##r", "M ##ü ##l ##l ##e ##r", "cased, because vocab.txt has capital letters and accented"),
        (
            "m ##ü ##l ##e ##r",
            "m ##ü ##l ##l ##e ##r",
            "uncased, accents kept, because vocab.txt has no capital letters and accented letters",
        ),
        ("m ##u ##l ##e ##r COVID É-1", "m ##u ##l ##l ##e ##r", "uncased, accents stripped, because vocab.txt has no"),
    ],
)
@pytest.mark.parametrize("model_type", ["bert", "electra", "roberta"])
def test_vocabulary_letters_determine_case(model_type, vocabulary, tokens, case, folder, tmp_path, caplog):
    write_vocabulary(folder, *vocabulary.split())
    caplog.set_level("INFO", "cloze")
    tokenizer = load(folder, model_type)
    assert tokenizer.tokenize("Müller") == tokens.split()
    assert f"Tokenizer: {case}" in caplog.text
    assert_loads_again(tokenizer, tmp_path / "saved")


def test_explicit_case_overrides_the_vocabulary(folder, caplog):
    write_vocabulary(folder, *["M", "m", "##ü", "##u", "##l", "##e", "##r"])
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert load(folder).tokenize("Müller") == ["m", "##u", "##l", "##l", "##e", "##r"]
    assert "vocab.txt" not in caplog.text


@pytest.mark.parametrize("model_type", ["roberta", "modernbert", "bert"])
def test_vocabulary_and_merges_files_load(model_type, tokenizers, folder, tmp_path):
    own = tokenizers["byte_level"]
    own.backend_tokenizer.model.save(str(folder))
    tokenizer = load(folder, model_type)
    assert tokenizer(TEXT, TEXT)["input_ids"] == own(TEXT, TEXT)["input_ids"]
    assert_loads_again(tokenizer, tmp_path / "saved", model_type)


# Files and errors


def test_tokenizer_file_loads_its_folder(folder):
    cased_backend().save(str(folder / "tokenizer.json"))
    assert load(folder / "tokenizer.json").tokenize("Müller Wald") == ["Müller", "Wald"]
    (folder / "tokenizer.json").rename(folder / "mine.json")
    with pytest.raises(
        UserError, match=r"mine.json: no tokenizer .* \(supported file names: tokenizer.json, vocab.txt"
    ):
        load(folder / "mine.json")
    with pytest.raises(UserError, match=r"\(no tokenizer file found\): give --tokenizer_name PATH, a folder with"):
        load(folder)


def test_case_is_not_logged_without_vocabulary(folder, caplog):
    caplog.set_level("INFO", "cloze")
    (folder / "vocab.json").write_text("{}")
    with pytest.raises(UserError, match="no tokenizer file found"):
        load(folder)
    assert "vocab.txt" not in caplog.text


def test_sentencepiece_models_name_the_library_that_reads_them(folder):
    (folder / "spiece.model").write_bytes(b"no model")
    with pytest.raises(UserError, match="a SentencePiece model needs pip install sentencepiece protobuf"):
        load(folder, "albert")


def test_model_from_scratch_keeps_a_bare_tokenizer_json(folder, tmp_path, run_mlm_script):
    backend = cased_backend()
    backend.save(str(folder / "tokenizer.json"))
    (tmp_path / "text.txt").write_text(f"{TEXT}\n" * 20)
    out = tmp_path / "out"
    code, _, errors = run_mlm_script(
        *("--model_type", "bert", "--config_overrides", TINY, "--tokenizer_name", folder, "--output_dir", out),
        *("--train_file", tmp_path / "text.txt", "--do_train", "--max_steps", 1, "--use_cpu"),
    )
    assert code == 0, errors
    assert AutoTokenizer.from_pretrained(out)(TEXT)["input_ids"] == backend.encode(TEXT).ids
    assert load_trained(str(out), TASKS).tokenizer(TEXT)["input_ids"] == backend.encode(TEXT).ids
