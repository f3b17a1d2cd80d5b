"""Nothing in a recipe, a data file, a model or a checkpoint executes code, and no token is written or shown."""

import json
import os
import pickle
import shutil
from hashlib import sha256

import pyarrow
import pyarrow.parquet
import pytest
import torch
from transformers import AutoConfig
from transformers.trainer import TRAINING_ARGS_NAME

import run_mlm
from cloze.config import parser
from cloze.config.recipes import recipe_of, recipe_to_argv
from cloze.config.redaction import find_secrets, redact
from cloze.errors import UserError
from cloze.system.storage import CHECKSUMS
from tests.utils import SAMPLE

LEAST = ["--model_type", "bert", "--train_file", "text.txt", "--do_train", "--output_dir", "out"]
SECRET = "hf_" + "Secret0" * 5
PLAIN_SECRET = "not-like-a-token-of-the-hub"


def parse(argv):
    return parser.parse(argv, parser.settings_of(run_mlm.main))


class Evil:
    """Makes a folder where it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.fixture
def trace(tmp_path):
    """Return the file that malicious code would write; only the tests that allow code find it."""
    return tmp_path / "executed"


@pytest.fixture
def run(run_mlm_script, tmp_path):
    def run_(*argv):
        return run_mlm_script(
            "--train_file", SAMPLE, "--max_seq_length", 32, "--do_train", "--max_steps", 2, "--save_steps", 1,
            "--output_dir", tmp_path / "out", *argv,
        )  # fmt: skip

    return run_


def assert_one_line(code, errors, *parts):
    assert code == 2
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    for part in parts:
        assert part in errors


def files_below(*folders):
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


# Recipes


@pytest.mark.parametrize("text", ["trust_remote_code: true", "trust_remote_code: 1", '"trust_remote_code": on'])
def test_recipe_may_not_set_trust_remote_code(text, tmp_path):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UserError, match="give --trust_remote_code on the command line"):
        parse([str(tmp_path / "recipe.yaml"), *LEAST])
    (tmp_path / "recipe.json").write_text('{"trust_remote_code": true}')
    with pytest.raises(UserError, match="give --trust_remote_code on the command line"):
        parse([str(tmp_path / "recipe.json"), *LEAST])


def test_recipe_with_trust_remote_code_false_is_accepted(tmp_path):
    (tmp_path / "recipe.yaml").write_text("trust_remote_code: false\n")
    assert not parse([str(tmp_path / "recipe.yaml"), *LEAST])[0].trust_remote_code
    assert parse([str(tmp_path / "recipe.yaml"), *LEAST, "--trust_remote_code"])[0].trust_remote_code


@pytest.mark.parametrize("value", ["--trust_remote_code", "--trust-remote-code=true", "--token", "-h"])
def test_recipe_value_is_not_read_as_a_flag(value, tmp_path):
    (tmp_path / "recipe.yaml").write_text(f"train_file: [text.txt, {value}]\n")
    with pytest.raises(UserError, match=f"train_file has the value {value}"):
        parse([str(tmp_path / "recipe.yaml"), *LEAST])
    (tmp_path / "recipe.yaml").write_text(f"train_file: {value}\n")
    model_args, data_args, _ = parse([str(tmp_path / "recipe.yaml"), *LEAST[:2], *LEAST[4:]])
    assert (data_args.train_file, model_args.trust_remote_code, model_args.token) == ([value], False, None)


def test_negative_numbers_in_a_recipe_are_values(tmp_path):
    (tmp_path / "recipe.yaml").write_text("train_file: [-1, -0.5]\n")
    assert "-0.5" in recipe_to_argv(str(tmp_path / "recipe.yaml"), {"train_file": list[str]})[0]


@pytest.mark.parametrize(
    "tag", ["object/apply:os.mkdir", "object/new:os.mkdir", "name:os.system", "module:antigravity"]
)
def test_recipe_executes_nothing(tag, trace, tmp_path):
    (tmp_path / "recipe.yaml").write_text(f"seed: !!python/{tag} [{trace}]\n")
    with pytest.raises(UserError, match="line 1"):
        parse([str(tmp_path / "recipe.yaml"), *LEAST])
    assert not trace.exists()


def test_written_recipe_omits_trust_remote_code_and_says_so():
    text = recipe_of(*parse([*LEAST, "--trust_remote_code"]))
    assert "\ntrust_remote_code" not in text
    assert text.startswith("# This run had --trust_remote_code")
    assert "trust" not in recipe_of(*parse(LEAST))


# Code that comes with a model


@pytest.fixture
def with_code(checkpoint, capsys, tmp_path):
    """``with_code(file, auto_map, trace)`` is a model whose config or tokenizer names a class in code of its own."""

    def make(file, auto_map, trace):
        path = tmp_path / "with-code"
        shutil.copytree(checkpoint("bert"), path)
        capsys.readouterr()  # the progress of saving it
        settings = json.loads((path / file).read_text())
        settings |= {"auto_map": auto_map}
        if file == "config.json":
            settings["model_type"] = "stranger"
        else:
            settings["tokenizer_class"] = "Stranger"
        (path / file).write_text(json.dumps(settings))
        (path / "stranger.py").write_text(
            f"import os\nos.mkdir({str(trace)!r})\nfrom transformers import BertConfig, BertTokenizer\n"
            "class StrangeConfig(BertConfig):\n    model_type = 'stranger'\n"
            "class StrangeTokenizer(BertTokenizer):\n    pass\n"
        )
        return path

    return make


CODE = [
    ("config.json", {"AutoConfig": "stranger.StrangeConfig"}),
    ("tokenizer_config.json", {"AutoTokenizer": ["stranger.StrangeTokenizer", None]}),
]


@pytest.mark.parametrize(("file", "auto_map"), CODE, ids=["config", "tokenizer"])
def test_remote_code_runs_only_if_trusted(file, auto_map, run, with_code, trace):
    model = with_code(file, auto_map, trace)
    code, printed, errors = run("--model_name_or_path", model)
    assert not trace.exists()
    assert "REMOTE CODE" not in printed
    if file == "config.json":
        assert_one_line(code, errors, f"--model_name_or_path {model} needs custom Python code", "--trust_remote_code")
    else:
        assert code == 0, "tokenizer.json is enough"
    _, printed, errors = run("--model_name_or_path", model, "--trust_remote_code")
    assert trace.exists(), "else this would test nothing"
    assert f"warning: --trust_remote_code lets code from {model} run with your permissions" in printed


def test_remote_code_is_reported_in_log_recipe_and_model_card(run, checkpoint, tmp_path):
    other = tmp_path / "tokenizer"
    shutil.copytree(checkpoint("bert"), other)
    code, printed, errors = run(
        "--model_name_or_path", checkpoint("bert"), "--tokenizer_name", other, "--trust_remote_code"
    )
    assert code == 0, errors
    assert (
        f"warning: --trust_remote_code lets code from {checkpoint('bert')} and with {other} run with your permissions"
        in printed
    )
    card, recipe = ((tmp_path / "out" / name).read_text() for name in ("README.md", "recipe.yaml"))
    assert f"Code from {checkpoint('bert')} and {other} was allowed to run" in card
    assert "# This run had --trust_remote_code" in recipe
    assert "\ntrust_remote_code" not in recipe


# Pickles


@pytest.mark.parametrize("protocol", ["zip", "old"])
def test_weights_that_execute_code_are_refused(protocol, run, checkpoint, trace, tmp_path):
    model = tmp_path / "evil"
    shutil.copytree(checkpoint("bert"), model)
    (model / "model.safetensors").unlink()
    evil = {"bert.embeddings.word_embeddings.weight": Evil(trace)}
    torch.save(evil, model / "pytorch_model.bin", _use_new_zipfile_serialization=protocol == "zip")
    code, _, errors = run("--model_name_or_path", model)
    assert not trace.exists()
    assert_one_line(code, errors, str(model), "the weights cannot be loaded")
    with pytest.raises(FileNotFoundError):
        os.rmdir(trace)
    pickle.loads(pickle.dumps(Evil(trace)))
    assert trace.exists(), "else this would test nothing"


LOADED = ["optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt", "pytorch_model.bin"]


@pytest.mark.parametrize("name", [*LOADED, "training_args.bin"])
def test_checkpoint_executes_nothing(name, run, checkpoint, trace, tmp_path):
    """One whose sums are right, as a stranger's would be."""
    model = ("--model_name_or_path", checkpoint("bert"))
    assert run(*model)[0] == 0
    shutil.rmtree(tmp_path / "out" / "checkpoint-2")
    newest = tmp_path / "out" / "checkpoint-1"
    if name == "pytorch_model.bin":
        (newest / "model.safetensors").unlink()
    torch.save(Evil(trace), newest / name)
    files = [path for path in newest.iterdir() if path.name != CHECKSUMS]
    (newest / CHECKSUMS).write_text(
        "".join(f"{sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    )
    code, printed, errors = run(*model)
    assert f"Resuming from {newest}" in printed
    assert not trace.exists()
    if name in LOADED:
        assert_one_line(code, errors, f"{newest} does not fit this run, or was not saved by these scripts")
    else:
        assert code == 0, errors


def test_no_pickled_settings_are_left(run, checkpoint, tmp_path):
    assert run("--model_name_or_path", checkpoint("bert"))[0] == 0
    names = {path.name for path in files_below(tmp_path / "out")}
    assert "optimizer.pt" in names
    assert TRAINING_ARGS_NAME not in names


# Data


@pytest.mark.parametrize("source", ["--dataset_name", "--train_file"])
@pytest.mark.parametrize("name", ["stranger.py", "train.py"])
def test_data_set_script_is_not_run(source, name, run_mlm_script, checkpoint, trace, texts, tmp_path):
    folder = tmp_path / "stranger"
    folder.mkdir()
    (folder / name).write_text(f"import os\nos.mkdir({str(trace)!r})\n")
    (folder / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:40]))
    code, _, errors = run_mlm_script(
        "--model_name_or_path", checkpoint("bert"), source, folder, "--do_train", "--max_steps", 1,
        "--max_seq_length", 32, "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert not trace.exists()
    if (source, name) == ("--dataset_name", "stranger.py"):  # as the script of a data set is called
        assert_one_line(code, errors, f"--dataset_name {folder} cannot be loaded", "scripts are no longer supported")
    else:
        assert code == 0, errors


def test_formulas_in_tables_are_text(run, checkpoint, trace, tmp_path):
    command = f"__import__('os').mkdir('{trace}')"
    (tmp_path / "a.csv").write_text(f'text\n"=cmd|{command}"\n"{command}"\n')
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": command, "py/object": "os.mkdir"}) + "\n")
    pickled = pickle.dumps(Evil(trace))
    table = pyarrow.table({"text": ["a text", command], "object": [pickled, pickled]})
    table = table.replace_schema_metadata({"ARROW:extension:name": "arrow.py_extension_type", "pandas": pickled.hex()})
    field = pyarrow.field(
        "object",
        pyarrow.binary(),
        metadata={"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickled},
    )
    table = table.cast(pyarrow.schema([table.schema.field("text"), field]))
    pyarrow.parquet.write_table(table, tmp_path / "c.parquet")
    files = [tmp_path / name for name in ("a.csv", "b.jsonl", "c.parquet")]
    code, printed, errors = run(
        "--model_name_or_path", checkpoint("bert"), "--text_column", "text", "--train_file", *files
    )
    assert code == 0, errors
    assert "5 documents" in printed
    assert not trace.exists()


# Tokens


def test_secrets_come_from_flags_and_environment(monkeypatch):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, f"value-of-{name}")
    argv = ["--token", PLAIN_SECRET, "--hub_token=another-secret", "--use_auth_token", "true", "--seed", "12345678"]
    found = find_secrets(argv)
    assert {PLAIN_SECRET, "another-secret", "value-of-HF_TOKEN", "value-of-WANDB_API_KEY"} <= found
    assert not {"true", "12345678", ""} & found
    assert redact(f"a {PLAIN_SECRET}, {SECRET}", found) == "a ***, ***"
    # Without arguments, the secrets of the environment count.
    assert "value-of-HF_TOKEN" in find_secrets([])


@pytest.mark.parametrize("flag", ["--token", "--hub_token", "--use_auth_token", "--push_to_hub_token"])
def test_token_is_in_no_file_and_no_log(flag, run, checkpoint, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    code, printed, errors = run(
        "--model_name_or_path", checkpoint("bert"), flag, PLAIN_SECRET, "--do_eval", "--cache_dir", tmp_path / "cache"
    )
    assert code == 0, errors
    files = files_below(tmp_path / "out", tmp_path / "cache")
    assert len(files) > 10
    for text in (*(path.read_bytes() for path in files), printed.encode(), errors.encode()):
        assert PLAIN_SECRET.encode() not in text
        assert SECRET.encode() not in text


def test_token_in_a_recipe_is_redacted(run_mlm_script, checkpoint, monkeypatch, tmp_path):
    def refuse(*_, token, **__):
        raise OSError(f"401: {token} is not allowed here")

    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    (tmp_path / "recipe.yaml").write_text(f"token: {PLAIN_SECRET}\n")
    code, _, errors = run_mlm_script(
        tmp_path / "recipe.yaml", "--model_name_or_path", "a/b", "--train_file", SAMPLE, "--do_train",
        "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert_one_line(code, errors, "401: *** is not allowed here")


@pytest.mark.parametrize(
    "argv",
    [
        ["--tokne", PLAIN_SECRET],
        [f"--tokne={PLAIN_SECRET}"],
        [f"--hub-tokne={SECRET}"],
        ["--token", "x", SECRET],
        ["--seed", SECRET],
        ["--model_name_or_path", f"https://user:{SECRET}@huggingface.co/a/b"],
    ],
    ids=str,
)
def test_errors_redact_tokens(argv, run_mlm_script, tmp_path):
    code, printed, errors = run_mlm_script(
        "--train_file", SAMPLE, "--do_train", "--output_dir", tmp_path / "out", *argv
    )
    assert code == 2
    assert PLAIN_SECRET not in printed + errors
    assert SECRET not in printed + errors


def test_pickled_training_arguments_have_no_token():
    args = parse([*LEAST, "--hub_token", PLAIN_SECRET])[2]
    assert args.hub_token == PLAIN_SECRET
    assert PLAIN_SECRET.encode() not in pickle.dumps(args)
