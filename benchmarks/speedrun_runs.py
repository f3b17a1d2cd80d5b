"""Make the text and the tokenizer of speedrun.py, and train and evaluate its sides."""

import hashlib
import json
import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import adaptation_text as docs
import torch
import transformers
from adaptation_runs import start
from speedrun_sides import Side, Size
from speedrun_tables import Run

from cloze.text.corpus import FileCorpus
from cloze.text.files import find_files
from cloze.tokenization.training import train_wordpiece

# Flags of all scripts.
LENGTH = ("--max_seq_length", "128")
TRAINING = ("--model_type", "bert", "--do_train", "--save_strategy", "no", "--disable_tqdm", "true")
EVALUATION = ("--do_eval", "--per_device_eval_batch_size", "64")


class Speedrun(NamedTuple):
    """Hold a speedrun's size, and the folder of its text, tokenizer, logs and runs."""

    work: Path
    size: Size

    @property
    def runs(self) -> list[Run]:
        """Return the complete runs in the order of their ends."""
        path = self.work / "runs.jsonl"
        return [Run(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def prepare(work: Path, size: Size) -> dict:
    """Make text and tokenizer, unless they are there; return what the times depend on, and exit if that has changed."""
    work.mkdir(parents=True, exist_ok=True)
    environment = {
        "text": make_text(work / "text", size),
        "size": {name: value for name, value in asdict(size).items() if name not in ("target", "packages")},
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "device": "cpu" if size.use_cpu or not torch.cuda.is_available() else torch.cuda.get_device_name(),
    }
    path = work / "environment.json"
    if path.exists() and json.loads(path.read_text()) != environment:
        sys.exit(
            f"the runs in {work} had other versions, sizes or threads (see {path.name}): give another --output_dir"
        )
    path.write_text(json.dumps(environment, indent=2) + "\n")
    if not (work / "tokenizer").exists():
        corpus = FileCorpus(tuple(find_files([str(work / "text" / "train.txt")], "--train_file")))
        train_wordpiece([corpus], size.vocab_size, lower_case=True).save_pretrained(work / "tokenizer")
    return environment


def make_text(folder: Path, size: Size) -> dict:
    """Write train.txt and held-out.txt, unless they are there; return what they are made of."""
    described = folder / "text.json"
    if not described.exists():
        versions = docs.installed(size.packages)
        missing = [package for package in size.packages if package not in versions]
        if missing:
            sys.exit(f"packages missing: {', '.join(missing)}")
        documents = documents_of(docs.read_packages(size.packages), random.Random(0))
        parts = {"held-out": take(documents, size.held_out_chars), "train": take(documents, size.train_chars)}
        folder.mkdir(exist_ok=True)
        for name, text in parts.items():
            (folder / f"{name}.txt").write_text(text, encoding="utf-8")
        digest = hashlib.sha256("".join(parts.values()).encode()).hexdigest()[:16]
        described.write_text(json.dumps({"versions": versions, "digest": digest}))
    text = json.loads(described.read_text())
    versions = ", ".join(f"{package} {version}" for package, version in text["versions"].items())
    print(f"Text: {text['digest']}, docstrings of {versions}", flush=True)
    return text


def documents_of(found: list[docs.Paragraph], rng: random.Random) -> Iterator[str]:
    """Yield the paragraphs of each file of a package, one on a line, in random order of the files."""
    files: dict[tuple[str, str], list[str]] = {}
    for text, package, file in found:
        files.setdefault((package, file), []).append(text)
    for key in rng.sample(sorted(files), len(files)):
        yield "\n".join(files[key])


def take(documents: Iterator[str], chars: int) -> str:
    """Return the next documents, with blank lines between them, cut at a number of characters."""
    text = ""
    while len(text) < chars:
        document = next(documents, None)
        if document is None:
            sys.exit(f"the docstrings have too little text: {chars - len(text):,} characters are missing")
        text += f"{document}\n\n"
    return text[:chars]


def run(speedrun: Speedrun, name: str, side: Side, steps: int, seed: int) -> Run:
    """Train and evaluate a side, unless it is complete; return the run."""
    settings = {"script": side.script, "flags": side.flags, "config": side.config, "steps": steps, "seed": seed}
    runs = speedrun.runs
    complete = next((each for each in runs if settings.items() <= each._asdict().items()), None)
    if complete is None:
        log = speedrun.work / "logs" / f"{len(runs):03}-{name}.log"
        seconds, loss = train_and_evaluate(speedrun, side, ["--max_steps", steps, "--seed", seed], log)
        complete = Run(name, **settings, loss=loss, seconds=seconds)
        with open(speedrun.work / "runs.jsonl", "a", encoding="utf-8") as file:
            print(json.dumps(complete._asdict()), file=file)
    rates = " ".join(complete.rates.values())
    print(
        f"{name}, {rates}, {steps} steps, seed {seed}: {complete.loss:.4f} after {complete.seconds:.1f} s", flush=True
    )
    return complete


def train_and_evaluate(speedrun: Speedrun, side: Side, flags: list, log: Path) -> tuple[float, float]:
    """Return the seconds of the training steps, and the held-out masked loss of the saved model."""
    work, size = speedrun
    model, evaluation = work / "model", work / "evaluation"
    for folder in (model, evaluation):
        shutil.rmtree(folder, ignore_errors=True)
    config = ",".join(f"{name}={value}" for name, value in (size.config | side.config).items())
    given = side.flags | size.flags | ({"config_overrides": config} if config else {})
    common = [*LENGTH, "--cache_dir", work / "cache"]
    training = [*TRAINING, *common, *flags, *(part for name, value in given.items() for part in (f"--{name}", value))]
    text, tokenizer = work / "text", work / "tokenizer"
    training += ["--tokenizer_name", tokenizer, "--train_file", text / "train.txt"]
    start(side.script, model, training, log, size.use_cpu)
    held_out = ["--model_name_or_path", model, "--validation_file", text / "held-out.txt"]
    start("run_mlm.py", evaluation, [*EVALUATION, *common, *held_out], log.with_suffix(".evaluation.log"), size.use_cpu)
    trained, evaluated = (json.loads((each / "all_results.json").read_text()) for each in (model, evaluation))
    # Of the size of the model, and there are many runs.
    shutil.rmtree(model)
    return trained["train_runtime"], evaluated["eval_loss"]
