"""Settings of another vocabulary: what excludes what, and the size of a trained tokenizer."""

import pytest

import run_mlm
import run_nsp
from cloze.config.parser import parse, settings_of
from cloze.config.recipes import recipe_of
from cloze.errors import UserError

FROM_CHECKPOINT = "--model_name_or_path there --train_file text.txt --output_dir out"


def parsed(line, script=run_mlm):
    return parse(line.split(), settings_of(script.main))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("--model_type bert --train_file text.txt --do_train", "--new_tokenizer needs --model_name_or_path PATH"),
        (f"{FROM_CHECKPOINT} --do_train --tokenizer_name other", "--new_tokenizer and --tokenizer_name exclude"),
        (f"{FROM_CHECKPOINT} --do_train --do_lower_case", "--new_tokenizer and --do_lower_case exclude"),
        (f"{FROM_CHECKPOINT} --do_eval", "--new_tokenizer needs --do_train"),
        (f"{FROM_CHECKPOINT} --do_train --vocab_size 10", "--vocab_size 10 is too small"),
    ],
)
def test_new_tokenizer_needs_a_checkpoint_and_training_text(line, problem):
    with pytest.raises(UserError, match=f"^{problem}"):
        parsed(f"{line} --new_tokenizer")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("--model_type bert --train_file text.txt --do_train", "--{} needs --model_name_or_path PATH: leave it out to"),
        (f"{FROM_CHECKPOINT} --do_train --tokenizer_name other", "--{} and --tokenizer_name exclude each other"),
        (f"{FROM_CHECKPOINT} --do_train --new_tokenizer", "--new_tokenizer and --{} exclude each other"),
        (f"{FROM_CHECKPOINT} --do_eval", "--{} needs --do_train, as new tokens must be trained: add --do_train, or"),
        (f"{FROM_CHECKPOINT} --do_eval --prepare_only", "--{} needs --do_train"),
    ],
)
@pytest.mark.parametrize("flag", ["add_vocabulary", "vocabulary_file"])
def test_new_words_need_a_checkpoint_and_training(line, problem, flag):
    with pytest.raises(UserError, match=f"^{problem.format(flag)}"):
        parsed(f"{line} --{flag} 100")


def test_the_number_of_words_is_positive():
    with pytest.raises(UserError, match="--add_vocabulary 0 is less than 1: give a number of words"):
        parsed(f"{FROM_CHECKPOINT} --do_train --add_vocabulary 0")
    settings = parsed(f"{FROM_CHECKPOINT} --do_train --add_vocabulary 9 --vocabulary_file words.txt")
    assert settings[0].changes_vocabulary
    assert "add_vocabulary: 9\n" in recipe_of(*settings)
    assert not parsed(f"{FROM_CHECKPOINT} --do_train")[0].changes_vocabulary


def test_scripts_that_mask_no_tokens_have_no_such_flag():
    with pytest.raises(UserError, match="unknown argument --new_tokenizer"):
        parsed(f"{FROM_CHECKPOINT} --do_train --new_tokenizer", run_nsp)


@pytest.mark.parametrize(("flags", "size"), [("", 30_522), ("--vocab_size 900", 900), ("--new_tokenizer", None)])
def test_size_is_the_checkpoints_only_for_a_new_tokenizer(flags, size):
    settings = parsed(f"{FROM_CHECKPOINT} --do_train {flags}")
    assert settings[0].vocab_size == size
    assert ("vocab_size: 30522" in recipe_of(*settings)) is (size == 30_522)
