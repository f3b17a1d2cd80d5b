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


def test_scripts_that_mask_no_tokens_have_no_such_flag():
    with pytest.raises(UserError, match="unknown argument --new_tokenizer"):
        parsed(f"{FROM_CHECKPOINT} --do_train --new_tokenizer", run_nsp)


@pytest.mark.parametrize(("flags", "size"), [("", 30_522), ("--vocab_size 900", 900), ("--new_tokenizer", None)])
def test_size_is_the_checkpoints_only_for_a_new_tokenizer(flags, size):
    settings = parsed(f"{FROM_CHECKPOINT} --do_train {flags}")
    assert settings[0].vocab_size == size
    assert ("vocab_size: 30522" in recipe_of(*settings)) is (size == 30_522)
