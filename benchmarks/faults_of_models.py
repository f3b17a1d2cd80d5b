"""Provoke faults of untrusted inputs: hostile recipes, models and archives, and requests to the page."""

import gzip
import http.client
import importlib.util
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

from fault_runs import SMALL, Case, Outcome, Run, Skipped, fault, one_line, require

# Most CPU seconds and MB of a run that ends with a user error: little more than the imports take.
SOON, LITTLE = 20.0, 900.0
# The same for a document that is read until it is too large.
DOCUMENT_SECONDS, DOCUMENT_MEMORY = 60.0, 3_000.0
FOREIGN = "evil.example"

# Recipes


def refuse_recipe(case: Case, content: str, name: str = "recipe.yaml") -> Outcome:
    recipe = case.write(name, content)
    flags = ["--model_type", "bert", "--do_train", *SMALL, "--cache_dir", case.folder / "cache"]
    out = [] if "output_dir" in content else ["--output_dir", case.folder / "out"]
    return one_line(case.start([sys.executable, "run_mlm.py", recipe, *flags, *out]), cpu=SOON, memory=LITTLE)


@fault("recipes", "a billion laughs recipe (YAML aliases)")
def billion_laughs(case: Case) -> Outcome:
    lines = ["lr_scheduler_kwargs:", "  a0: &a0 [lol, lol]"]
    lines += [f"  a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 10)}]" for number in range(1, 10)]
    return refuse_recipe(case, "\n".join(lines) + "\ntrain_file: sample\n")


@fault("recipes", "a recipe nested 100,000 levels deep")
def deep_recipe(case: Case) -> Outcome:
    return refuse_recipe(case, f"train_file: {'[' * 100_000}{']' * 100_000}\n")


@fault("recipes", "a JSON recipe nested 100,000 levels deep")
def deep_json_recipe(case: Case) -> Outcome:
    return refuse_recipe(case, f'{{"train_file": {"[" * 100_000}{"]" * 100_000}}}', "recipe.json")


@fault("recipes", "a recipe with a dictionary that contains itself")
def recursive_recipe(case: Case) -> Outcome:
    return refuse_recipe(case, "train_file: sample\nlr_scheduler_kwargs: &a\n  a: *a\n")


@fault("recipes", "a recipe with a number of 100,000 digits")
def long_number(case: Case) -> Outcome:
    return refuse_recipe(case, f"train_file: sample\nseed: {'9' * 100_000}\n")


@fault("recipes", "a JSON recipe with a number of 100,000 digits")
def long_json_number(case: Case) -> Outcome:
    return refuse_recipe(case, f'{{"train_file": "sample", "seed": {"9" * 100_000}}}', "recipe.json")


@fault("recipes", "a recipe with an unpaired surrogate")
def surrogate(case: Case) -> Outcome:
    return refuse_recipe(case, 'train_file: sample\noutput_dir: "\\ud83d"\n')


# Models


def refuse_model(case: Case, name: str, *flags) -> Outcome:
    command = shlex.split("run_mlm.py --train_file sample --do_train --max_steps 2 --use_cpu")
    folders = ["--cache_dir", case.folder / "cache", "--output_dir", case.folder / "out"]
    return one_line(case.start([sys.executable, *command, *folders, *flags]), name, cpu=SOON, memory=LITTLE)


def copy_model(case: Case) -> Path:
    return Path(shutil.copytree(case.undisturbed(), case.folder / "model"))


@fault("models", "ten million layers, from scratch")
def many_layers(case: Case) -> Outcome:
    layers = ["--model_type", "bert", "--config_overrides", "num_hidden_layers=10000000"]
    return refuse_model(case, "num_hidden_layers", *layers, "--tokenizer_name", case.undisturbed())


@fault("models", "a model whose config.json has ten million layers")
def many_layers_in_config(case: Case) -> Outcome:
    config = copy_model(case) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 10_000_000}))
    return refuse_model(case, str(config.parent), "--model_name_or_path", config.parent)


@fault("models", "a tokenizer with an id of 2^31, from scratch")
def large_token_id(case: Case) -> Outcome:
    tokenizer = copy_model(case) / "tokenizer.json"
    content = json.loads(tokenizer.read_text())
    content["model"]["vocab"]["moon"] = 2**31
    tokenizer.write_text(json.dumps(content))
    return refuse_model(case, "token", "--model_type", "bert", "--tokenizer_name", tokenizer.parent)


@fault("models", "a config.json nested 100,000 levels deep")
def deep_config(case: Case) -> Outcome:
    config = case.write("deep/config.json", f'{{"model_type": "bert", "a": {"[" * 100_000}{"]" * 100_000}}}')
    flags = ["--config_name", config.parent, "--tokenizer_name", case.undisturbed()]
    return refuse_model(case, str(config.parent), *flags)


@fault("models", "a weights index that points outside its folder")
def foreign_index(case: Case) -> Outcome:
    from safetensors import safe_open

    model = copy_model(case)
    elsewhere = shutil.move(model / "model.safetensors", case.folder / "elsewhere.safetensors")
    with safe_open(elsewhere, "np") as weights:
        places = dict.fromkeys(weights.keys(), "../elsewhere.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return refuse_model(case, "index", "--model_name_or_path", model)


# Archives


def refuse_archive(case: Case, name: str, compressed: bytes) -> Outcome:
    """Read 2 GB of zeros, in 32 compressed pieces."""
    archive = case.write(name, compressed * 32)
    run = case.train("--train_file", archive, "--tokenizer_name", case.undisturbed(), "--prepare_only")
    return one_line(run, name, cpu=DOCUMENT_SECONDS, memory=DOCUMENT_MEMORY)


@fault("archives", "2 GB of zeros in 2 MB of gzip")
def gzip_bomb(case: Case) -> Outcome:
    return refuse_archive(case, "zeros.txt.gz", gzip.compress(bytes(2**26)))


@fault("archives", "2 GB of zeros in a few kB of zstd")
def zstd_bomb(case: Case) -> Outcome:
    import pyarrow

    return refuse_archive(case, "zeros.jsonl.zst", pyarrow.compress(bytes(2**26), "zstd", asbytes=True))


# The page


def serve(case: Case) -> tuple[Run, int]:
    """Start the page; return its run and port."""
    if importlib.util.find_spec("gradio") is None:
        raise Skipped("gradio is not installed")
    run = case.start([sys.executable, "app.py", copy_model(case)])
    run.wait_for("The page is at http")
    return run, int(re.search(r"The page is at http://127.0.0.1:(\d+)", run.output)[1])


def ask(port: int, method: str = "GET", path: str = "/", body: bytes | None = None, **headers) -> tuple[int, str]:
    """Send a request; return the status and the body of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    return answer.status, answer.read().decode(errors="replace")


@fault("page", "a request to the page by another host name (DNS rebinding)")
def foreign_host(case: Case) -> Outcome:
    run, port = serve(case)
    status, _ = ask(port)
    require(status == 200, run, f"{status} for its own name")
    status, _ = ask(port, Host=FOREIGN)
    require(400 <= status < 500, run, f"{status} for another Host")
    return Outcome(run, f"{status} for another Host")


@fault("page", "a file upload from another site")
def foreign_upload(case: Case) -> Outcome:
    run, port = serve(case)
    body = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\na\r\n--b--\r\n'
    kind = "multipart/form-data; boundary=b"
    status, _ = ask(port, "POST", "/gradio_api/upload", body, Content_Type=kind, Origin=f"http://{FOREIGN}")
    require(400 <= status < 500, run, f"{status} for an upload from another Origin")
    return Outcome(run, f"{status} for an upload from another Origin")


@fault("page", "full paths on the page")
def paths_on_page(case: Case) -> Outcome:
    run, port = serve(case)
    _, page = ask(port)
    require("model" in page and str(case.folder) not in page, run, "the page shows the path of the model")
    return Outcome(run, "only names")
