"""Test precedence, types of values, old flags, and that a written recipe reads back the same."""

import dataclasses
import functools
import json
import shlex

import pytest
import yaml

import run_clm
import run_mlm
import run_nsp
import run_pretraining
from cloze.config import parser
from cloze.config.adaptation_arguments import AdaptationArguments
from cloze.config.arguments import ModelArguments, TrainingArguments
from cloze.config.continuation_arguments import ContinuationArguments
from cloze.config.data_arguments import (
    DataTrainingArguments,
    NextSentenceArguments,
    PretrainingDataArguments,
)
from cloze.config.deprecated_flags import DROPPED, RENAMED, REPLACED
from cloze.config.recipes import recipe_of
from cloze.errors import UserError

# The settings that every run needs.
LEAST = {"model_name_or_path": "model", "train_file": "text.txt", "do_train": True}
LEAST_ARGV = [f"--{name}={value}" for name, value in LEAST.items()]


def test_texts_have_names_or_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a=b.txt", "year=2020"):
        (tmp_path / name).touch()
    settings = DataTrainingArguments(train_file=["law=a.txt", "wiki=b/*.txt", "law=c=d.txt"], validation_file="a=b.txt")
    assert settings.train_sources == {"law": ["a.txt", "c=d.txt"], "wiki": ["b/*.txt"]}
    assert settings.validation_sources == {"": ["a=b.txt"]}
    assert settings.held_out_names == [""]
    assert DataTrainingArguments(train_file=["law=a.txt", "b=b.txt"]).held_out_names == ["law", "b"]
    paths = ["data/year=2020/*.parquet", "year=2020"]
    assert DataTrainingArguments(train_file=paths).train_sources == {"": paths}
    with pytest.raises(UserError, match=r"^--train_file b\.txt has no name, but other files do: give NAME=PATH"):
        DataTrainingArguments(train_file=["law=a.txt", "b.txt"])
    with pytest.raises(UserError, match=r"all or for none, with letters, digits, _ and - in names$"):
        DataTrainingArguments(train_file=["law.v2=a.txt", "b=b.txt"])


@pytest.mark.parametrize("names", [("mlm", "b"), ("a", "a_mlm"), ("a_nsp", "a")])
def test_metrics_of_texts_have_names_of_their_own(names):
    # The masked loss of a, and the loss of a_mlm, would both be a_mlm_loss.
    texts, bad = [f"{name}=text.txt" for name in names], max(names, key=len)
    with pytest.raises(UserError, match=f"^{bad} is the name of a metric, not of a text: give {bad}-text=PATH$"):
        PretrainingDataArguments(validation_file=texts)
    assert DataTrainingArguments(validation_file=texts).held_out_names == list(names), "has no parts"


# A value for each old flag, unlike the default of the current one; True for switches.
OLD_VALUES = {
    "keep_linebreaks": True,
    "evaluation_strategy": "epoch",
    "warmup_ratio": 0.06,
    "use_auth_token": "secret",
    "no_cuda": True,
    "per_gpu_train_batch_size": 3,
    "per_gpu_eval_batch_size": 3,
    "torch_dtype": "bfloat16",
    "push_to_hub_token": "secret",
    "push_to_hub_model_id": "my-model",
    "include_tokens_per_second": True,
    "train_data_file": "old.txt",
    "eval_data_file": "old.txt",
    "block_size": 64,
    "group_by_length": True,
    "adafactor": True,
    "evaluate_during_training": True,
    "past_index": -1,
    "ray_scope": "last",
    "mp_parameters": "{}",
    "tpu_num_cores": 8,
    "include_inputs_for_metrics": True,
    "use_ipex": True,
    "jit_mode_eval": True,
    "fp16_opt_level": "O1",
    "logging_dir": "runs",
    "save_safetensors": True,
    "low_cpu_mem_usage": True,
    "use_mps_device": True,
    "mlm": True,
    "fp16_backend": "auto",
    "half_precision_backend": "apex",
}
OLD_SWITCHES = [*(name for name, value in OLD_VALUES.items() if value is True), "use_auth_token"]
FROM_EITHER = pytest.mark.parametrize("from_recipe", [False, True], ids=["command line", "recipe"])


def parse(argv, script=run_mlm):
    return parser.parse(argv, parser.settings_of(script.main))


def settings_of(arguments) -> list[dict]:
    """Return the settings of each dataclass, without ``resolved``, which records them before they are derived."""
    names = [[field.name for field in dataclasses.fields(part) if field.name != "resolved"] for part in arguments]
    return [
        {name: getattr(part, name) for name in part_names} for part, part_names in zip(arguments, names, strict=True)
    ]


@pytest.fixture
def resolve(tmp_path):
    """Return ``resolve(*argv, recipe=...)``, which returns all settings; a recipe is a mapping or YAML text."""

    def run(*argv, recipe=None, suffix=".yaml") -> dict:
        first = LEAST_ARGV
        if recipe is not None:
            path = tmp_path / f"recipe{suffix}"
            dump = json.dumps if suffix == ".json" else functools.partial(yaml.safe_dump, sort_keys=False)
            path.write_text(dump(LEAST) + recipe if isinstance(recipe, str) else dump(LEAST | recipe), "utf-8")
            first = [str(path)]
        arguments = parse([*first, *map(str, argv)])
        return {name: value for part in settings_of(arguments) for name, value in part.items()}

    return run


@pytest.fixture
def warnings(caplog):
    caplog.set_level("WARNING", "cloze")
    return caplog


@pytest.mark.parametrize(
    ("name", "default", "in_recipe", "on_command_line"),
    [
        ("model_revision", "main", "v1", "v2"),
        ("use_fast_tokenizer", True, False, True),
        ("validation_file", None, ["a.txt", "b.txt"], ["c.txt"]),
        ("mlm_probability", 0.15, 0.3, 0.4),
        ("line_by_line", False, True, False),
        ("max_train_samples", None, 10, 20),
        ("learning_rate", 5e-5, 1e-4, 3e-5),
        ("save_total_limit", 2, None, 7),
        ("logging_first_step", True, False, True),
        ("lr_scheduler_kwargs", None, {"num_cycles": 2}, {"num_cycles": 3}),
    ],
)
@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".json"])
def test_command_line_beats_recipe_beats_default(name, default, in_recipe, on_command_line, suffix, resolve):
    recipe = {name: in_recipe}
    values = on_command_line if isinstance(on_command_line, list) else [on_command_line]
    flag = [f"--{name}", *(json.dumps(value) if isinstance(value, dict) else value for value in values)]
    assert resolve()[name] == default
    assert resolve(recipe=recipe, suffix=suffix)[name] == in_recipe
    assert resolve(*flag, recipe=recipe, suffix=suffix)[name] == on_command_line
    assert resolve(*flag)[name] == on_command_line


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("learning_rate: 1e-4", 1e-4),
        ("learning_rate: 3E-05", 3e-5),
        ("learning_rate: '1e-4'", 1e-4),
        ("weight_decay: 0", 0.0),
        ("num_train_epochs: 3", 3.0),
        ("max_steps: 100", 100),
        ("do_eval: true", True),
        ("do_eval: yes", True),
        ("do_eval: 1", True),
        ("do_eval: 'false'", False),
        ("logging_first_step: off", False),
        ("run_name: 12", "12"),
        ("validation_file: a.txt", ["a.txt"]),
        ("validation_file: [a.txt, b.txt]", ["a.txt", "b.txt"]),
        ("save_total_limit: null", None),
        ("save_total_limit: ~", None),
        ("save_total_limit:", None),
        ("max_seq_length: null", None),
        ("report_to: none", []),
        ("report_to: tensorboard", ["tensorboard"]),
        ("report_to: [tensorboard, wandb]", ["tensorboard", "wandb"]),
        ("save_strategy: no", "no"),
        ("eval_strategy: no", "no"),
        ("lr_scheduler_kwargs: {num_cycles: 2, power: 0.5}", {"num_cycles": 2, "power": 0.5}),
        ("lr_scheduler_kwargs: {min_lr: 1e-5}", {"min_lr": 1e-5}),
    ],
)
def test_recipe_value_gets_the_declared_type(line, value, resolve):
    """To YAML 1.1, ``1e-4`` is a string, and ``no`` is false."""
    setting = resolve(recipe=line)[line.partition(":")[0]]
    assert setting == value
    assert isinstance(setting, type(value))


def test_a_mapping_for_a_switch_is_an_error(resolve):
    with pytest.raises(UserError, match=r"recipe.yaml: --do_eval/--do-eval: Truthy value expected"):
        resolve(recipe={"do_eval": {"a": 1}})


def test_string_for_a_list_setting_is_a_list_of_one():
    assert DataTrainingArguments(train_file="a.txt", validation_file="b.txt").train_file == ["a.txt"]
    assert DataTrainingArguments(train_file="a.txt", validation_file="b.txt").validation_file == ["b.txt"]


def test_hyphens_are_accepted_for_underscores(resolve):
    settings = resolve("--learning-rate", 1e-3, "--train-file", "a.txt", "b.txt", "--line-by-line", "--no-cuda")
    expected = {"learning_rate": 1e-3, "train_file": ["a.txt", "b.txt"], "line_by_line": True, "use_cpu": True}
    assert expected.items() <= settings.items()


@pytest.mark.parametrize(
    "value",
    [
        *("two words", "key: value", "한국어 中文 العربية 🙂", "a=b", "# no comment", "'single' \"double\"", "C:\\new"),
        *("-1", "--flag", "no", "null", "1e-4", "{a}", "[a, b]", "%s"),
    ],
)
def test_string_survives_command_line_recipe_and_written_recipe(value, resolve, tmp_path):
    assert resolve(f"--run_name={value}")["run_name"] == value
    assert resolve(recipe={"run_name": value})["run_name"] == value
    arguments = parse([*LEAST_ARGV, f"--run_name={value}", f"--text_column={value}"])
    (tmp_path / "written.yaml").write_text(recipe_of(*arguments), encoding="utf-8")
    _, data_args, training_args = parse([str(tmp_path / "written.yaml")])
    assert (training_args.run_name, data_args.text_column) == (value, value)


@pytest.mark.parametrize(
    "name",
    ["lr_scheduler_kwargs", "gradient_checkpointing_kwargs", "accelerator_config", "fsdp_config", "deepspeed"],
)
def test_broken_json_is_reported_with_its_flag(name):
    with pytest.raises(UserError, match=f'--{name} {{"a": : not JSON: Expecting value'):
        parse([*LEAST_ARGV, f"--{name}", '{"a": '])


# Old flags


def test_every_old_flag_has_a_value_here():
    assert OLD_VALUES.keys() == RENAMED.keys() | REPLACED.keys() | DROPPED.keys()


def give(resolve, from_recipe: bool, name: str, value) -> dict:
    return resolve(recipe={name: value}) if from_recipe else resolve(f"--{name}", value)


@FROM_EITHER
@pytest.mark.parametrize("name", RENAMED)
def test_renamed_flag_sets_todays_with_one_warning(name, from_recipe, resolve, warnings):
    today = RENAMED[name]
    expected = resolve(f"--{today}", OLD_VALUES[name])[today]
    assert expected != resolve()[today]
    warnings.clear()
    assert give(resolve, from_recipe, name, OLD_VALUES[name])[today] == expected
    assert warnings.messages == [f"--{name} is now --{today}"]


@FROM_EITHER
@pytest.mark.parametrize(
    ("name", "flag", "on", "off"),
    [
        ("group_by_length", "train_sampling_strategy", "group_by_length", "random"),
        ("adafactor", "optim", "adafactor", "adamw_torch_fused"),
    ],
)
def test_replaced_switch_sets_todays_flag_with_one_warning(name, flag, on, off, from_recipe, resolve, warnings):
    assert give(resolve, from_recipe, name, True)[flag] == on
    assert warnings.messages == [f"--{name} is now --{flag} {on}"]
    assert give(resolve, from_recipe, name, False)[flag] == off


@FROM_EITHER
@pytest.mark.parametrize("name", DROPPED)
def test_dropped_flag_changes_nothing_and_warns_once(name, from_recipe, resolve, warnings):
    assert give(resolve, from_recipe, name, OLD_VALUES[name]) == resolve()
    assert warnings.messages == [f"--{name} is ignored: {DROPPED[name]}"]


@FROM_EITHER
def test_overwrite_output_dir_does_not_warn(from_recipe, resolve, warnings):
    """transformers has removed the flag, but the scripts declare it, and the quickstart recipes set it."""
    assert give(resolve, from_recipe, "overwrite_output_dir", True)["overwrite_output_dir"] is True
    assert warnings.messages == []


@pytest.mark.parametrize("name", DROPPED)
def test_dropped_flag_takes_its_value_along_and_no_other(name, resolve):
    settings = resolve("--seed", 7, f"--{name.replace('_', '-')}", OLD_VALUES[name], "--max_steps", 9)
    assert (settings["seed"], settings["max_steps"]) == (7, 9)


@pytest.mark.parametrize("name", OLD_SWITCHES)
def test_old_switch_needs_no_value(name, resolve, warnings):
    """use_auth_token was a switch, too: it selected the token of the login, which is the default today."""
    expected = resolve() if name == "use_auth_token" else resolve(f"--{name}", True)
    warnings.clear()
    assert resolve(f"--{name}") == expected
    assert len(warnings.messages) == 1


@FROM_EITHER
@pytest.mark.parametrize("name", [name for name in OLD_SWITCHES if name != "group_by_length"])
def test_old_switch_switched_off_is_the_default(name, from_recipe, resolve):
    """Except group_by_length, which is on by default today."""
    assert give(resolve, from_recipe, name, False) == resolve()


@pytest.mark.parametrize(
    "name", ["use_auth_token", "push_to_hub_model_id", "block_size", "group_by_length", "logging_dir"]
)
def test_old_flag_that_is_null_in_a_recipe_is_the_default(name, resolve):
    """Programs write such recipes."""
    assert resolve(recipe={name: None}) == resolve()


@pytest.mark.parametrize(
    ("recipe", "argv", "name", "value"),
    [
        ({"evaluation_strategy": "epoch"}, "--eval_strategy steps", "eval_strategy", "steps"),
        ({"eval_strategy": "epoch"}, "--evaluation_strategy steps", "eval_strategy", "steps"),
        ({"warmup_ratio": 0.1}, "--warmup_steps 50", "warmup_steps", 50),
        ({"group_by_length": True}, "--train_sampling_strategy random", "train_sampling_strategy", "random"),
        ({"group_by_length": True}, "--group_by_length False", "train_sampling_strategy", "random"),
        ({"adafactor": True}, "--adafactor False --seed 1", "optim", "adamw_torch_fused"),
    ],
)
def test_command_line_beats_recipe_for_old_flags_too(recipe, argv, name, value, resolve):
    assert resolve(*argv.split(), recipe=recipe)[name] == value


def test_upstream_tutorial_command_parses():
    model_args, data_args, training_args = parse(
        shlex.split(
            "--model_name_or_path PATH --max_seq_length 128 --line_by_line --train_file T --validation_file V "
            "--do_train --do_eval --max_steps 5000 --save_steps 1000 --output_dir results/"
        )
    )
    assert model_args.model_name_or_path == "PATH"
    assert (data_args.max_seq_length, data_args.line_by_line) == (128, True)
    assert (data_args.train_file, data_args.validation_file) == (["T"], ["V"])
    assert (training_args.do_train, training_args.do_eval) == (True, True)
    assert (training_args.max_steps, training_args.save_steps) == (5000, 1000)
    assert training_args.output_dir == "results/"


# Written recipes


@pytest.mark.parametrize(
    "argv",
    [
        "",
        "--learning_rate 1e-4 --max_steps 10 --seed 0 --weight_decay 0.01 --warmup_ratio 0.1 --output_dir 'my runs'",
        "--train_file a.txt 'shards/*.txt.gz' 한국어.txt --validation_file b.txt --line_by_line --max_seq_length 64",
        "--no_use_fast_tokenizer --tokenizer_name other --dtype bfloat16 --cache_dir 'a: b'",
        "--save_strategy no --report_to none --eval_strategy epoch --do_eval --logging_first_step False",
        "--optim muon --muon_learning_rate 0.02 --embedding_learning_rate 0.003",
        "--optim adafactor --train_sampling_strategy group_by_length --gradient_accumulation_steps 4 --eval_steps 0.5",
        '--lr_scheduler_type cosine_with_min_lr --lr_scheduler_kwargs \'{"min_lr": 1e-05, "num_cycles": 0.5}\'',
        "--accelerator_config '{\"split_batches\": true}' --ddp_timeout 60 --overwrite_output_dir",
        "--debug underflow_overflow --use_cpu --disable_tqdm True --include_num_input_tokens_seen",
        "--do_eval --eval_strategy steps --load_best_model_at_end --metric_for_best_model accuracy",
    ],
)
def test_written_recipe_reads_back_the_same(argv, tmp_path):
    arguments = parse([*LEAST_ARGV, *shlex.split(argv)])
    (tmp_path / "recipe.yaml").write_text(recipe_of(*arguments), encoding="utf-8")
    assert settings_of(parse([str(tmp_path / "recipe.yaml")])) == settings_of(arguments)


def test_written_recipe_keeps_a_null_that_is_not_the_default(resolve, tmp_path):
    (tmp_path / "recipe.yaml").write_text("save_total_limit: null\n")
    arguments = parse([str(tmp_path / "recipe.yaml"), *LEAST_ARGV])
    (tmp_path / "written.yaml").write_text(recipe_of(*arguments), encoding="utf-8")
    assert parse([str(tmp_path / "written.yaml")])[2].save_total_limit is None


def test_written_recipe_of_a_model_from_scratch_reads_back_the_same(tmp_path):
    overrides = "hidden_size=128,num_hidden_layers=2"
    argv = ["--model_type", "bert", "--config_overrides", overrides, "--dataset_name", "name", "--do_train"]
    arguments = parse(argv)
    (tmp_path / "recipe.yaml").write_text(recipe_of(*arguments), encoding="utf-8")
    assert settings_of(parse([str(tmp_path / "recipe.yaml")])) == settings_of(arguments)


@pytest.mark.parametrize("flag", ["--token", "--hub_token", "--use_auth_token", "--push_to_hub_token"])
def test_token_is_never_written(flag, tmp_path):
    arguments = parse([*LEAST_ARGV, flag, "hf_secret"])
    assert "hf_secret" in (arguments[0].token, arguments[2].hub_token)
    (tmp_path / "recipe.yaml").write_text(recipe_of(*arguments), encoding="utf-8")
    assert "hf_secret" not in (tmp_path / "recipe.yaml").read_text()
    again = parse([str(tmp_path / "recipe.yaml")])
    assert (again[0].token, again[2].hub_token) == (None, None)


def test_help_lists_every_setting_and_exits_with_0(capsys):
    with pytest.raises(SystemExit) as exit_:
        parse(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for name in ("--model_name_or_path", "--train_file", "--learning_rate", "--overwrite_output_dir", "RECIPE.yaml"):
        assert name in text


# The scripts' own settings


@pytest.mark.parametrize(
    ("script", "model", "expected"),
    [
        (run_mlm, AdaptationArguments, DataTrainingArguments),
        (run_clm, ModelArguments, ContinuationArguments),
        (run_nsp, ModelArguments, NextSentenceArguments),
        (run_pretraining, AdaptationArguments, PretrainingDataArguments),
    ],
)
def test_settings_are_those_that_main_names(script, model, expected):
    assert parser.settings_of(script.main) == [model, expected, TrainingArguments]
    assert list(map(type, parse(LEAST_ARGV, script))) == [model, expected, TrainingArguments]


MASKING = {"mlm_probability", "eval_mlm_probability", "mask_replace_prob", "random_replace_prob", "whole_word_mask"}
PAIRING = {"pair_strategy", "pair_objective", "nsp_probability", "short_seq_probability", "sentence_per_line"}
BLOCKS = {"line_by_line", "truncate_long_lines"}
FILLING = {"test_file", "top_k"}
CONTINUING = {"test_file", "max_new_tokens", "do_sample", "temperature", "top_p", "top_k"}


@pytest.mark.parametrize(
    ("script", "own"),
    [
        (run_mlm, MASKING | BLOCKS | FILLING),
        (run_clm, BLOCKS | CONTINUING),
        (run_nsp, PAIRING | {"test_file"}),
        (run_pretraining, MASKING | PAIRING),
    ],
)
def test_script_refuses_settings_of_other_scripts(script, own):
    data_args = parse(LEAST_ARGV, script)[1]
    names = {field.name for field in dataclasses.fields(data_args)}
    everything = MASKING | PAIRING | BLOCKS | FILLING | CONTINUING
    assert names & everything == own
    for name in everything - own:
        with pytest.raises(UserError, match=f"unknown argument --{name}"):
            parse([*LEAST_ARGV, f"--{name}"], script)


PAIR_DEFAULTS = {
    "pair_strategy": "segment",
    "pair_objective": "nsp",
    "nsp_probability": 0.5,
    "short_seq_probability": 0.1,
    "sentence_per_line": False,
}


@pytest.mark.parametrize("script", [run_nsp, run_pretraining])
@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        *(("", name, value) for name, value in PAIR_DEFAULTS.items()),
        ("--pair_strategy sentence", "pair_strategy", "sentence"),
        ("--pair_objective sop", "pair_objective", "sop"),
        ("--nsp_probability 0.25", "nsp_probability", 0.25),
        ("--short_seq_probability 0", "short_seq_probability", 0.0),
        ("--short_seq_probability 1", "short_seq_probability", 1.0),
        ("--sentence_per_line", "sentence_per_line", True),
    ],
)
def test_settings_of_pairs(argv, name, value, script):
    assert getattr(parse([*LEAST_ARGV, *argv.split()], script)[1], name) == value


@pytest.mark.parametrize(
    ("script", "argv"),
    [
        (run_nsp, "--pair_strategy sentence --nsp_probability 0.25 --sentence_per_line --learning_rate 1e-4"),
        (run_nsp, "--pair_objective sop --short_seq_probability 0 --metric_for_best_model f1"),
        (run_nsp, "--do_predict --test_file pairs.csv --do_train False"),
        (run_mlm, "--do_predict --test_file lines.txt --top_k 3"),
        (run_clm, "--do_predict --test_file lines.txt --max_new_tokens 7 --do_sample --temperature 0.5 --top_p 0.9"),
        (run_pretraining, "--pair_objective sop --mlm_probability 0.3 --whole_word_mask --max_seq_length 128"),
        (
            run_pretraining,
            "--nsp_probability 0.4 --metric_for_best_model eval_nsp_loss --validation_file 한국어.txt",
        ),
    ],
)
def test_written_recipe_of_pairs_reads_back_the_same(script, argv, tmp_path):
    arguments = parse([*LEAST_ARGV, *argv.split()], script)
    (tmp_path / "recipe.yaml").write_text(recipe_of(*arguments), encoding="utf-8")
    assert settings_of(parse([str(tmp_path / "recipe.yaml")], script)) == settings_of(arguments)


@pytest.mark.parametrize(
    ("script", "metrics"),
    [
        (run_mlm, ["loss", "accuracy"]),
        (run_clm, ["loss", "accuracy"]),
        (run_nsp, ["loss", "accuracy", "f1"]),
        (run_pretraining, ["loss", "mlm_loss", "nsp_loss", "mlm_accuracy", "nsp_accuracy", "nsp_f1"]),
    ],
)
def test_metric_for_best_model_is_one_of_the_script(script, metrics):
    for metric in metrics:
        for name in (metric, f"eval_{metric}"):
            assert parse([*LEAST_ARGV, f"--metric_for_best_model={name}"], script)[2].metric_for_best_model == name
    others = {"loss", "accuracy", "f1", "mlm_loss", "nsp_accuracy", "train_loss", "perplexity"} - set(metrics)
    for metric in others:
        message = f"--metric_for_best_model {metric} is not one of {', '.join(metrics)}$"
        with pytest.raises(UserError, match=message):
            parse([*LEAST_ARGV, f"--metric_for_best_model={metric}"], script)


@pytest.mark.parametrize("script", [run_nsp, run_pretraining])
def test_help_lists_the_settings_of_pairs(script, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse(["--help"], script)
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{name}" in text for name in PAIRING | {"learning_rate", "train_file"})
