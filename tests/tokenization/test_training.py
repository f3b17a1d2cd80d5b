"""Train tokenizers, and check special tokens, unknown text and word boundaries."""

import copy
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from cloze.errors import UserError
from cloze.system.signals import exit_immediately, handling_signals
from cloze.text.corpus import FileCorpus
from cloze.tokenization import new_tokenizer
from cloze.tokenization import training as tokenization
from cloze.tokenization.checks import check_dropped, check_unknown, check_whole_words, count_unknown, describe_unknown
from cloze.tokenization.encoding import own_encoder
from cloze.tokenization.new_tokenizer import train_tokenizer
from cloze.tokenization.properties import fingerprint, required_vocab_size, unknown_id
from cloze.tokenization.templates import (
    PairTemplate,
    Template,
    ensure_template,
    line_template_of,
    pair_template_of,
    template_of,
)
from tests.utils import ROOT, truncating

KINDS = ["wordpiece", "byte_level", "unigram"]
CORPUS = FileCorpus(tuple(sorted(ROOT.glob("sample/*.txt"))))
ACCENTS = "Die naïve Ärztin sah über 한국어 und 漢字 hinweg, déjà vu in Łódź.\n"


@pytest.fixture
def accents(tmp_path):
    path = tmp_path / "accents.txt"
    path.write_text(ACCENTS * 3)
    return FileCorpus((path,))


TRAINERS = {
    "bert": tokenization.train_wordpiece,
    "roberta": tokenization.train_byte_level,
    "gpt2": tokenization.train_gpt2,
    "xlnet": tokenization.train_unigram,
}


def train(kind, vocab_size=600):
    return TRAINERS[kind]([CORPUS], vocab_size, lower_case=False)


def digest(tokenizer):
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()


# Training


def test_tokenizer_training_is_deterministic():
    """Two runs agree, also in another process, where Python and the trainer hash strings differently."""
    digests = [[digest(train(kind)) for kind in TRAINERS] for _ in range(2)]
    script = "from tests.tokenization.test_training import *; print(*[digest(train(kind)) for kind in TRAINERS])"
    output = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert digests[0] == digests[1] == output.stdout.split()


@pytest.mark.parametrize("kind", TRAINERS)
def test_vocabulary_has_the_given_size(kind):
    tokenizer = train(kind, 800)
    assert len(tokenizer) == required_vocab_size(tokenizer) == 800


@pytest.mark.parametrize("kind", ["bert", "distilbert", "electra", "roberta", "modernbert"])
def test_trained_tokenizer_has_its_familys_special_tokens(kind, accents, tmp_path):
    tokenizer = train_tokenizer([accents], kind, 400, False, tmp_path, overwrite=False)
    byte_level = kind in ("roberta", "modernbert")
    names = "<s> </s> <pad> <unk> <mask>" if byte_level else "[CLS] [SEP] [PAD] [UNK] [MASK]"
    roles = ["cls_token", "sep_token", "pad_token", "unk_token", "mask_token"]
    assert [getattr(tokenizer, role) for role in roles] == names.split()
    cls, sep, *_, mask = ids = [tokenizer.get_vocab()[name] for name in names.split()]
    assert len(set(ids)) == 5
    text = tokenizer(f"über {tokenizer.mask_token}")["input_ids"]
    assert [text[0], *text[-2:]] == [cls, mask, sep]


@pytest.mark.parametrize("lower_case", [False, True])
def test_unigram_tokenizer_is_like_xlnets(lower_case, accents, tmp_path):
    """The same ids of special tokens, A <sep> <cls>, and the same ids after loading; accents are stripped."""
    made = tokenization.train_unigram([CORPUS, accents], 600, lower_case)
    assert made.convert_ids_to_tokens(range(9)) == list(tokenization.XLNET_TOKENS)
    tokenizer = train_tokenizer([CORPUS, accents], "xlnet", 600, lower_case, tmp_path, overwrite=False)
    assert type(tokenizer).__name__ == "XLNetTokenizer"
    assert fingerprint(tokenizer) == fingerprint(made)
    encoded = tokenizer("The naïve Stars", return_token_type_ids=True)
    assert encoded["input_ids"][-2:] == [4, 3]
    assert encoded["token_type_ids"] == [0] * (len(encoded["input_ids"]) - 1) + [2]
    assert tokenizer.decode(encoded["input_ids"][:-2]) == ("the naive stars" if lower_case else "The naive Stars")
    assert tokenizer("\N{EGYPTIAN HIEROGLYPH A001}")["input_ids"][1] == tokenizer.unk_token_id


@pytest.mark.parametrize("lower_case", [False, True])
def test_wordpiece_keeps_accents(lower_case, accents, tmp_path):
    """Accents are kept in memory and after loading; Hangul is not decomposed."""
    tokenizer = train_tokenizer([accents], "bert", 300, lower_case, tmp_path, overwrite=False)
    for loaded in (tokenizer, tokenization.train_wordpiece([accents], 300, lower_case)):
        words = "".join(piece.removeprefix("##") for piece in loaded.tokenize("naïve Ärztin 한국어 漢字 Łódź"))
        assert words == ("naïveärztin한국어漢字łódź" if lower_case else "naïveÄrztin한국어漢字Łódź")


def test_wordpiece_continuations_exclude_stand_alone_characters(accents):
    """Punctuation and Chinese characters are words by themselves; such tokens would never be trained."""
    vocabulary = tokenization.train_wordpiece([accents], 300, lower_case=False).get_vocab()
    assert {"漢", "字", ",", ".", "##국", "##어", "##ï"} <= vocabulary.keys()
    assert not {"##漢", "##字", "##,", "##."} & vocabulary.keys()


def test_byte_level_mask_includes_the_space_before(accents, tmp_path):
    """Only the mask is between the words, as the fill-mask pipeline expects."""
    tokenizer = train_tokenizer([accents], "roberta", 400, False, tmp_path, overwrite=False)
    before, after = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("one", " two"))
    assert tokenizer("one <mask> two", add_special_tokens=False)["input_ids"] == [
        *before, tokenizer.mask_token_id, *after,
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["roberta", "gpt2"])
def test_byte_level_round_trips_text(kind, accents, tmp_path):
    tokenizer = train_tokenizer([accents], kind, 400, False, tmp_path, overwrite=False)
    text = "Naïve 한국어 and 🦑, never seen"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_trained_tokenizer_is_reused(accents, tmp_path, monkeypatch):
    vocabulary = train_tokenizer([accents], "bert", 300, False, tmp_path, overwrite=False).get_vocab()
    lower = train_tokenizer([accents], "bert", 300, True, tmp_path, overwrite=False).get_vocab()
    assert lower != vocabulary
    accents.files[0].write_text("another text, with other characters " * 9)
    accents = FileCorpus(accents.files)
    other = train_tokenizer([accents], "bert", 300, False, tmp_path, overwrite=False).get_vocab()
    assert other != vocabulary
    # From here on, reading the text raises TypeError.
    monkeypatch.setattr(tokenization, "read_documents", None)
    assert train_tokenizer([accents], "bert", 300, False, tmp_path, overwrite=False).get_vocab() == other
    with pytest.raises(TypeError):
        train_tokenizer([accents], "bert", 300, False, tmp_path, overwrite=True)
    assert train_tokenizer([accents], "bert", 300, False, tmp_path, overwrite=False).get_vocab() == other
    monkeypatch.setattr(new_tokenizer, "VERSION", new_tokenizer.VERSION + 1)
    with pytest.raises(TypeError):
        train_tokenizer([accents], "bert", 300, False, tmp_path, overwrite=False)


# A piece of Unigram has 16 characters at most.
@pytest.mark.parametrize("kind", [kind for kind in TRAINERS if kind != "xlnet"])
def test_long_words_are_cut_for_training(kind, tmp_path, caplog):
    """Uncut, one word of 300,000 letters took a minute and became a token."""
    path = tmp_path / "word.txt"
    path.write_text("ab" * 150_000 + " and short words\n")
    tokenizer = TRAINERS[kind]([FileCorpus((path,))], 300, lower_case=False)
    assert max(map(len, tokenizer.get_vocab())) == tokenization.LONGEST_WORD
    assert [record.message for record in caplog.records if "words longer than" in record.message] == [
        "words longer than 1,000 characters (1) were cut to train the tokenizer: check that spaces separate words"
    ]


@pytest.mark.parametrize("kind", TRAINERS)
def test_ordinary_words_are_trained_on_whole(kind, monkeypatch, caplog):
    tokenizer, digests = train(kind), []
    for longest in (10**9, 5):
        monkeypatch.setattr(tokenization, "LONGEST_WORD", longest)
        digests.append(digest(train(kind)))
    assert digests[0] == digest(tokenizer) != digests[1]
    assert "FixedLength" not in tokenizer.backend_tokenizer.to_str()


@pytest.mark.parametrize("kind", TRAINERS)
def test_signal_ends_tokenizer_training(kind, monkeypatch):
    """A signal takes effect before the library has read all texts."""
    read = []

    def read_texts(corpus):
        for number in range(3_000):
            read.append(number)
            # WordPiece reads the texts a first time in Python, outside the library.
            first = 10 + 3_000 * (kind == "bert")
            if len(read) == first:
                os.kill(os.getpid(), signal.SIGTERM)
            if len(read) >= first:
                # The main thread, which handles signals, gets its turn also on a busy machine.
                time.sleep(0.001)
            yield [f"text{number} " * 1_000]

    monkeypatch.setattr(tokenization, "read_documents", read_texts)
    with handling_signals(exit_immediately), pytest.raises(SystemExit) as exit_:
        train(kind)
    assert exit_.value.code == 75
    assert 10 <= len(read) % 3_000 < 2_000


@pytest.mark.parametrize(
    ("kind", "lower_case", "message"),
    [
        ("albert", False, "a new albert needs --tokenizer_name PATH; tokenizers can be trained for bert"),
        ("roberta", True, "--do_lower_case is for WordPiece tokenizers"),
        ("gpt2", True, "--do_lower_case is for WordPiece tokenizers"),
    ],
)
def test_untrainable_tokenizers_are_errors(kind, lower_case, message, accents, tmp_path):
    with pytest.raises(UserError, match=message):
        train_tokenizer([accents], kind, 300, lower_case, tmp_path, overwrite=False)


# Special tokens


@pytest.mark.parametrize(
    ("kind", "prefix", "suffix"),
    [("wordpiece", "[CLS]", "[SEP]"), ("byte_level", "<s>", "</s>"), ("unigram", "[CLS]", "[SEP]")],
)
def test_template(kind, prefix, suffix, tokenizers):
    cls, sep = tokenizers[kind].convert_tokens_to_ids([prefix, suffix])
    assert template_of(tokenizers[kind]) == Template(prefix=(cls,), suffix=(sep,), separator=(sep,))


def test_tokenizer_of_gpt2_has_one_special_token_and_no_template(accents, tmp_path):
    """Also when it is read from the cache."""
    for _ in range(2):
        tokenizer = train_tokenizer([accents], "gpt2", 400, False, tmp_path, overwrite=False)
        assert type(tokenizer).__name__ == "GPT2Tokenizer"
        assert tokenizer.special_tokens_map == dict.fromkeys(["bos_token", "eos_token", "unk_token"], "<|endoftext|>")
        assert len(tokenizer.added_tokens_decoder) == 1
        assert template_of(tokenizer) == Template((), (), (tokenizer.eos_token_id,))
        # Its unknown token is the end-of-text token, which is known.
        assert unknown_id(tokenizer) is None


def test_template_of_lines_marks_their_beginnings(tokenizers):
    """Where the tokenizer adds nothing; a template of its own stays."""
    end = (tokenizers["gpt2"].eos_token_id,)
    assert line_template_of(tokenizers["gpt2"]) == Template(prefix=end, suffix=(), separator=end)
    assert line_template_of(tokenizers["wordpiece"]) == template_of(tokenizers["wordpiece"])


def test_template_of_a_tokenizer_without_special_tokens():
    vocabulary = {"a": 0, "[UNK]": 1}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary, "[UNK]")))
    assert template_of(tokenizer) == Template((), (), ())


@pytest.mark.parametrize(
    ("kind", "prefix", "middle", "suffix"),
    [
        ("wordpiece", ["[CLS]"], ["[SEP]"], ["[SEP]"]),
        ("byte_level", ["<s>"], ["</s>", "</s>"], ["</s>"]),
        ("unigram", ["[CLS]"], ["[SEP]"], ["[SEP]"]),
    ],
)
def test_template_of_pairs(kind, prefix, middle, suffix, tokenizers):
    """The template gives the same ids as the tokenizer."""
    tokenizer = tokenizers[kind]
    template = pair_template_of(tokenizer)
    assert template == PairTemplate(
        *(tuple(tokenizer.convert_tokens_to_ids(part)) for part in (prefix, middle, suffix))
    )
    a, b = "The Moon is far.", "Twice a day!"
    ids = [np.array(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (a, b)]
    assert template.example(*ids, 0, 0)["input_ids"].tolist() == tokenizer(a, b)["input_ids"]
    if kind == "wordpiece":
        assert template.example(*ids, 0, 0)["token_type_ids"].tolist() == tokenizer(a, b)["token_type_ids"]


def test_template_of_pairs_without_special_tokens():
    vocabulary = {"a": 0, "[UNK]": 1}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary, "[UNK]")))
    assert pair_template_of(tokenizer) == PairTemplate((), (), ())


CLS_SEP = {"single": "[CLS] $A [SEP]", "special_tokens": [("[CLS]", 2), ("[SEP]", 3)]}
PAIR = "[CLS] $A [SEP] $B:1 [SEP]:1"


def characters(post_processor, letters="xy", unk_token=None):
    """Return a tokenizer of some letters that drops all others."""
    vocabulary = {token: number for number, token in enumerate(["[PAD]", "[MASK]", "[CLS]", "[SEP]", *letters])}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token=unk_token))
    if post_processor is not None:
        backend.post_processor = post_processor
    names = {"pad_token": "[PAD]", "mask_token": "[MASK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


@pytest.mark.parametrize("letters", ["xy", "a"])
@pytest.mark.parametrize(
    ("post_processor", "middle"),
    [
        (processors.TemplateProcessing(**CLS_SEP, pair=PAIR), (3,)),
        (processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)), (3,)),
        (processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2)), (3, 3)),
        (processors.Sequence([processors.ByteLevel(), processors.TemplateProcessing(**CLS_SEP, pair=PAIR)]), (3,)),
    ],
    ids=["template", "BERT", "RoBERTa", "sequence"],
)
def test_templates_do_not_depend_on_the_probe_text(post_processor, middle, letters):
    """tokenizers#1208: "a" gives no token if the vocabulary has neither "a" nor an unknown token."""
    tokenizer = characters(post_processor, letters)
    assert template_of(tokenizer) == Template((2,), (3,), (3,))
    assert template_of(truncating(tokenizer)) == Template((2,), (3,), (3,))
    assert pair_template_of(tokenizer) == PairTemplate((2,), middle, (3,))


def test_templates_of_slow_tokenizers():
    eos = ByT5Tokenizer().eos_token_id
    assert template_of(ByT5Tokenizer()) == Template((), (eos,), (eos,))
    assert pair_template_of(ByT5Tokenizer()) == PairTemplate((), (eos,), (eos,))


@pytest.mark.parametrize(
    ("post_processor", "texts"),
    [(None, "a text"), (processors.ByteLevel(), "a text"), (processors.TemplateProcessing(**CLS_SEP), "two texts")],
    ids=["none", "byte level", "single text"],
)
@pytest.mark.parametrize(("family", "middle"), [("bert", (3,)), ("xlm-roberta", (3, 3))])
def test_missing_special_tokens_are_added_by_family(family, middle, post_processor, texts, tmp_path, caplog):
    """transformers#13000: the tokens are added also by the tokenizer saved with the model."""
    tokenizer = characters(post_processor)
    ensure_template(tokenizer, family)
    assert (
        f"the tokenizer (TokenizersBackend) adds no special tokens to {texts}: adding the template of {family} models"
    ) in caplog.text
    tokenizer.save_pretrained(tmp_path)
    for loaded in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        assert template_of(loaded) == Template((2,), (3,), (3,))
        assert pair_template_of(loaded) == PairTemplate((2,), middle, (3,))
        assert loaded("x", "yy")["input_ids"] == [2, 4, *middle, 5, 5, 3]
        types = [0] * 3 + [1] * 3 if family == "bert" else [0] * 7
        assert loaded("x", "yy", return_token_type_ids=True)["token_type_ids"] == types
    caplog.clear()
    ensure_template(tokenizer, family)
    assert not caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_existing_special_tokens_are_kept(kind, tokenizers, caplog):
    before = fingerprint(tokenizers[kind])
    ensure_template(tokenizers[kind], "bert")
    assert fingerprint(tokenizers[kind]) == before
    assert not caplog.text


def test_fingerprint_changes_with_vocabulary_and_normalizer(tokenizers):
    """datasets#3847: tokenizers of the same kind and size may differ."""
    tokenizer = tokenizers["wordpiece"]
    assert fingerprint(truncating(tokenizer)) == fingerprint(copy.deepcopy(tokenizer)) == fingerprint(tokenizer)
    other = copy.deepcopy(tokenizer)
    other.backend_tokenizer.normalizer = None
    swapped = tokenizer.backend_tokenizer.to_str().replace('"the":', '"?":').replace('"and":', '"the":')
    swapped = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(swapped.replace('"?":', '"and":')))
    assert swapped.convert_tokens_to_ids("the") == tokenizer.convert_tokens_to_ids("and")
    assert len({fingerprint(each) for each in (tokenizer, other, swapped, tokenizers["byte_level"])}) == 4
    assert fingerprint(ByT5Tokenizer()) != fingerprint(ByT5Tokenizer(extra_ids=5))


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_tokens_are_counted_by_tokenizer(kind, tokenizers):
    tokenizer = tokenizers[kind]
    ids = np.array(tokenizer("The moon, \U00012000.", add_special_tokens=False)["input_ids"], np.uint16)
    assert count_unknown(ids, unknown_id(tokenizer)) == (0 if kind == "byte_level" else 1)


def test_bare_tokenizer_uses_the_unknown_token_of_its_model():
    backend = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, "[UNK]"))
    assert unknown_id(PreTrainedTokenizerFast(tokenizer_object=backend)) == 1
    assert unknown_id(characters(None)) is None
    assert count_unknown(np.arange(3), None) == 0


def test_unknown_text_is_a_warning_or_an_error(tokenizers, caplog):
    """2 % unknown tokens pass; more than half are an error."""
    tokenizer = tokenizers["wordpiece"]
    check_unknown(0.02, "a.txt", tokenizer)
    assert not caplog.text
    check_unknown(0.5, "a.txt", tokenizer)
    assert caplog.messages[0].startswith("a.txt: 50.0% of the tokens are [UNK]: the tokenizer  (BertTokenizer) lacks")
    with pytest.raises(
        UserError, match=r"^a.txt: 50.1% .* longer than 100 characters: give a model or --tokenizer_name"
    ):
        check_unknown(0.501, "a.txt", tokenizer)
    assert "longer than" not in describe_unknown(0.1, "a.txt", tokenizers["unigram"])


def test_dropped_text_is_a_warning_or_an_error(tokenizers, caplog):
    """BPE without an unknown token drops text; spaces and characters that the normalizer removes do not count."""
    tokenizer = characters(None)
    tokenizer.backend_tokenizer.normalizer = normalizers.Strip()
    check_dropped([["x" * 49 + "z", "  y   "], [" " * 99]], "a.txt", tokenizer)
    assert not caplog.text
    check_dropped([["xyab"]], "a.txt", tokenizer)
    assert caplog.messages[0].startswith("a.txt: the tokenizer  (TokenizersBackend) drops 50.0% of the characters")
    with pytest.raises(
        UserError, match=r"^a.txt: .* drops 75.0% of the characters.*: give a model or --tokenizer_name"
    ):
        check_dropped([["xabc"]], "a.txt", tokenizer)
    for other in (*tokenizers.values(), characters(None, unk_token="x"), ByT5Tokenizer()):
        check_dropped([["\U00013000" * 3]], "a.txt", other)


def test_dropped_text_is_detected_by_each_script(run_mlm_script, run_classification_script, tmp_path):
    tokenizer, texts = tmp_path / "tokenizer", tmp_path / "texts.csv"
    characters(processors.TemplateProcessing(**CLS_SEP), letters="xyz").save_pretrained(tokenizer)
    texts.write_text("text,label\n" + "xabc,1\nyabc,2\n" * 9)
    argv = ("--model_type", "bert", "--tokenizer_name", tokenizer, "--train_file", texts, "--do_train",
            "--cache_dir", tmp_path, "--output_dir", tmp_path / "out", "--max_steps", 1)  # fmt: skip
    (tmp_path / "known.csv").write_text("text,label\n" + "xyz,1\nzyx,2\n" * 9)
    held_out = ("--train_file", tmp_path / "known.csv", "--validation_file", texts, "--do_eval")
    runs = [run_mlm_script(*argv), run_mlm_script(*argv, "--streaming"), run_mlm_script(*argv, *held_out)]
    runs += [run_classification_script(*argv), run_classification_script(*argv, *held_out)]
    for code, _, error in runs:
        assert code == 2
        assert "texts.csv: the tokenizer" in error
        assert "drops 75.0% of the characters" in error


def test_unencodable_text_is_an_error():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordPiece({"a": 0})))
    encoder = own_encoder(tokenizer, with_words=False)
    assert encoder(["a"]).ids.tolist() == [0]
    with pytest.raises(
        UserError, match=r"cannot encode the text \(.*Missing \[UNK\].*give another --tokenizer_name PATH"
    ):
        encoder(["a b"])


@pytest.mark.parametrize("kind", KINDS)
def test_whole_word_masking_supports_three_tokenizer_kinds(kind, tokenizers):
    check_whole_words(tokenizers[kind], "--whole_word_mask")


def word_level(pre_tokenizer):
    backend = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def unsplit(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.backend_tokenizer.pre_tokenizer = None
    return tokenizer


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda _: word_level(pre_tokenizers.Whitespace()),
            "TokenizersBackend .WordLevel. does not mark where words begin",
        ),
        (
            lambda tokenizers: unsplit(tokenizers["unigram"]),
            "DebertaV2Tokenizer .Unigram. does not mark where words begin",
        ),
        (lambda _: ByT5Tokenizer(), "ByT5Tokenizer is a slow tokenizer"),
    ],
    ids=["WordLevel", "nothing splits words", "slow"],
)
def test_whole_word_masking_error_names_the_tokenizer(make, words, tokenizers):
    """transformers#11768: without the error, masks would be silently wrong."""
    with pytest.raises(UserError, match=f"--whole_word_mask: {words}"):
        check_whole_words(make(tokenizers), "--whole_word_mask")
