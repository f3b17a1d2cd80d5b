"""Muon is a value of --optim like those of transformers, and contradictory settings are errors."""

import pytest
import transformers

from cloze.config import flag_help
from cloze.config.arguments import TrainingArguments
from cloze.config.optimizers import OPTIMIZERS, has_own_groups
from cloze.errors import UserError


def test_muon_is_the_optimizer_after_transformers_has_checked_its_own():
    args = TrainingArguments(output_dir="out", optim="muon", learning_rate=1)
    assert args.optim == "muon"
    assert args.to_dict()["optim"] == "muon"
    assert (args.muon_learning_rate, args.embedding_learning_rate) == (None, None)
    assert has_own_groups(args)


def test_other_optimizers_are_those_of_transformers():
    args, upstream = (each("out") for each in (TrainingArguments, transformers.TrainingArguments))
    assert (args.optim, type(args.optim)) == (upstream.optim, type(upstream.optim))
    assert not has_own_groups(args)
    assert [*(name.value for name in type(upstream.optim)), "muon"] == OPTIMIZERS


def test_help_shows_muon():
    assert "muon" in flag_help.flags_of([TrainingArguments])["optim"].help


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "muon"])
def test_rate_of_embeddings_works_with_adamw_and_muon(optim):
    assert has_own_groups(TrainingArguments("out", optim=optim, embedding_learning_rate=0.0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"muon_learning_rate": 0.1}, "^--muon_learning_rate needs --optim muon: add it, or drop the rate$"),
        (
            {"embedding_learning_rate": 0.1, "optim": "sgd"},
            "^--embedding_learning_rate needs --optim adamw_torch, adamw_",
        ),
        ({"optim": "muon", "optim_args": "a=1"}, "^--optim muon does not use --optim_args: drop it, or choose"),
        ({"optim": "muon", "optim_target_modules": ["a"]}, "^--optim muon does not use --optim_target_modules: drop"),
        ({"optim": "muon", "fsdp": "full_shard"}, "^--optim muon does not support FSDP or DeepSpeed: drop it, or run"),
        ({"optim": "muon", "deepspeed": {"a": 1}}, "^--optim muon does not support FSDP or DeepSpeed: drop it, or run"),
        ({"embedding_learning_rate": 0.1, "fsdp": "full_shard"}, "^--embedding_learning_rate does not support FSDP or"),
    ],
)
def test_settings_that_contradict_the_optimizer_are_errors(settings, message):
    with pytest.raises(UserError, match=message):
        TrainingArguments("out", **settings)


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_sharding_by_the_launcher_is_an_error(variable, monkeypatch):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(UserError, match=r"^--optim muon does not support FSDP or DeepSpeed"):
        TrainingArguments("out", optim="muon")
