#!/usr/bin/env python
"""Measure speed, disk space and memory of preparing text, with this project and as upstream does; then pairs.

    python benchmarks/preparation.py            # a quarter of an hour
    python benchmarks/preparation.py --quick    # a minute

The corpora consist of the sentences of the sample, or of --text, in random order; each corpus is ten times as long as
the previous one. One word in each sentence is made of two others, because real text always has new words. Upstream is
run_mlm.py in the examples of transformers: load_dataset("text"), a map of the tokenizer, and a map that joins 1,000
lines and cuts them into blocks. Each measurement runs in its own process, on all cores and for this project also on
one, from the text to the ids on disk, after libraries and tokenizer are loaded; the sides alternate. Special tokens are
not counted. Prints two tables and a line of JSON.
"""

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SIZES = (200_000, 2_000_000, 20_000_000)
MAX_SEQ_LENGTH = 128
SENTENCES_A_DOCUMENT = 12
UPSTREAM = "upstream"
# Ends the names of sides that use one core.
ONE_CORE = ", 1 core"

# Columns of the table of pairs: key, title, format.
PAIR_COLUMNS = (
    ("tokens", "tokens", ",d"),
    ("disk_bytes_per_token", "disk, B/token", ".2f"),
    ("segment_pairs", "segment pairs", ",d"),
    ("segment_seconds", "sampled in s", ".2f"),
    ("segment_bytes_per_token", "B/token", ".2f"),
    ("sentence_pairs", "sentence pairs", ",d"),
    ("sentence_seconds", "sampled in s", ".2f"),
    ("sentence_bytes_per_token", "B/token", ".2f"),
    ("peak_megabytes", "peak MB", ",.0f"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=SIZES, help="approximate sizes of the corpora")
    parser.add_argument("--turns", type=int, default=5, help="measurements of each side")
    parser.add_argument("--quick", action="store_true", help="two sizes, one turn")
    parser.add_argument("--text", help="file of sentences to use instead of the sample")
    parser.add_argument("--tokenizer_name", help="default: a WordPiece tokenizer trained on the sentences")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        what, folder, text = args.child
        print(json.dumps(make_texts(Path(folder), args) if what == "texts" else measure(what, Path(folder), text)))
        return
    sizes, turns = (args.tokens[:2], 1) if args.quick else (args.tokens, args.turns)
    backends = ["tokenizers"] + ["nanotoken"] * (importlib.util.find_spec("nanotoken") is not None)
    sides = [UPSTREAM, *backends, *(f"{backend}{ONE_CORE}" for backend in backends)]
    with tempfile.TemporaryDirectory() as folder:
        texts = child("texts", folder, "-", *sys.argv[1:])
        results = [compare(text, sides, turns, folder) for text in texts[: len(sizes)]]
        pairs = [child("pairs", folder, text) for text in texts[: len(sizes)]]
    print("tokens | side | tokens/s, median | slowest | fastest | speedup | B/token on disk | peak MB")
    for result in results:
        for side, row in result["sides"].items():
            print(
                f"{result['tokens']:>10,d} | {side:18} | {row['median']:>11,.0f} | {row['slowest']:>11,.0f} | "
                f"{row['fastest']:>11,.0f} | {row['times']:>6.2f} | {row['bytes']:>6.2f} | {row['peak']:>5,.0f}"
            )
    print("\n" + " | ".join(title for _, title, _ in PAIR_COLUMNS))
    for result in pairs:
        print(" | ".join(f"{result[key]:>{len(title)}{form}}" for key, title, form in PAIR_COLUMNS))
    print(json.dumps({"preparation": results, "pairs": pairs}))


def child(what: str, folder: str, text: str, *flags: str):
    """Return the output of a child process. This process stays small, because its memory counts in the child's peak."""
    argv = [sys.executable, __file__, *flags, "--child", what, folder, text]
    return json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def compare(text: str, sides: list[str], turns: int, folder: str) -> dict:
    """Measure all sides on one text in alternating turns."""
    measured: dict[str, list[dict]] = {side: [] for side in sides}
    for turn in range(turns):
        for side in sides if turn % 2 == 0 else reversed(sides):
            measured[side].append(child(side, folder, text))
            print(f"turn {turn + 1}, {Path(text).name}, {side}: {measured[side][-1]}", file=sys.stderr)
    tokens = measured["tokenizers"][0]["tokens"]
    rows = {}
    for side, runs in measured.items():
        seconds = [run["seconds"] for run in runs]
        times = [base["seconds"] / run["seconds"] for base, run in zip(measured[UPSTREAM], runs, strict=True)]
        rows[side] = {
            "median": tokens / median(seconds),
            "slowest": tokens / max(seconds),
            "fastest": tokens / min(seconds),
            "times": median(times),
            "bytes": runs[0]["bytes"] / tokens,
            "peak": median(run["peak"] for run in runs),
        }
    return {"tokens": tokens, "sides": rows}


def make_texts(folder: Path, args: argparse.Namespace) -> list[str]:
    """Write the corpora and the tokenizer."""
    import numpy as np
    from transformers import AutoTokenizer

    from cloze.text.corpus import FileCorpus
    from cloze.tokenization.new_tokenizer import train_tokenizer

    base = FileCorpus((Path(args.text),) if args.text else tuple(sorted((ROOT / "sample").glob("*.txt"))))
    if args.tokenizer_name:
        tokenizer = AutoTokenizer.from_pretrained(args.tokenizer_name)
    else:
        tokenizer = train_tokenizer([base], "bert", 8_000, True, folder, overwrite=False)
    tokenizer.save_pretrained(folder / "tokenizer")
    paths = [folder / f"{size}.txt" for size in args.tokens]
    for path, size in zip(paths, args.tokens, strict=True):
        write_corpus(path, base, size, np.random.default_rng(0))
    return list(map(str, paths))


def measure(side: str, folder: Path, text: str) -> dict[str, float]:
    """Prepare the text as one side does; return seconds, bytes on disk, and peak memory in MB."""
    backend = side.removesuffix(ONE_CORE)
    if side == "pairs" or backend != side:
        use_one_core()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        if side == "pairs":
            return measure_pairs(Path(text), tokenizer, Path(cache))
        prepare = prepare_as_upstream if side == UPSTREAM else prepare_as_ours
        return prepare(Path(text), tokenizer, Path(cache), backend)


def use_one_core() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ["RAYON_NUM_THREADS"] = "1"


def prepare_as_ours(text: Path, tokenizer, cache: Path, backend: str) -> dict[str, float]:
    from cloze.text.corpus import FileCorpus
    from cloze.tokenization.nanotoken import faster_encoder
    from cloze.tokenization.token_cache import prepare

    start = time.perf_counter()
    faster = faster_encoder(tokenizer, backend, with_words=False)
    corpus = prepare(FileCorpus((text,)), tokenizer, cache, granularity="document", with_words=False, faster=faster)
    return figures(start, cache) | {"tokens": len(corpus.tokens)}


def prepare_as_upstream(text: Path, tokenizer, cache: Path, _) -> dict[str, float]:
    import datasets

    # Unused here, but loaded by both sides to make their memory comparable.
    import cloze.tokenization.token_cache  # noqa: F401

    def encode(lines):
        return tokenizer(lines["text"], return_special_tokens_mask=True)

    def cut(lines):
        columns = {name: [value for row in rows for value in row] for name, rows in lines.items()}
        starts = range(0, len(columns["input_ids"]) // MAX_SEQ_LENGTH * MAX_SEQ_LENGTH, MAX_SEQ_LENGTH)
        return {name: [values[i : i + MAX_SEQ_LENGTH] for i in starts] for name, values in columns.items()}

    datasets.disable_progress_bars()
    start = time.perf_counter()
    lines = datasets.load_dataset("text", data_files=str(text), cache_dir=str(cache), split="train")
    encoded = lines.map(encode, batched=True, remove_columns=["text"])
    encoded.map(cut, batched=True)
    return figures(start, cache)


def figures(start: float, cache: Path) -> dict[str, float]:
    seconds = time.perf_counter() - start
    size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    return {"seconds": seconds, "bytes": size, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}


def measure_pairs(text: Path, tokenizer, cache: Path) -> dict[str, float]:
    """Draw an epoch of pairs from the text's sentences, both strategies, on one core."""
    import numpy as np

    from cloze.data.pairs import PairSettings, Sentences, draw_pairs
    from cloze.text.corpus import FileCorpus
    from cloze.tokenization.nanotoken import faster_encoder
    from cloze.tokenization.templates import pair_template_of
    from cloze.tokenization.token_cache import prepare

    faster = faster_encoder(tokenizer, "auto", with_words=False)
    corpus = prepare(FileCorpus((text,)), tokenizer, cache, granularity="sentence", with_words=False, faster=faster)
    tokens = len(corpus.tokens)
    result = {"tokens": tokens, "disk_bytes_per_token": figures(0, cache)["bytes"] / tokens}
    template = pair_template_of(tokenizer)
    for strategy in ("segment", "sentence"):
        settings = PairSettings(MAX_SEQ_LENGTH - template.num_special, strategy)
        start = time.perf_counter()
        sentences = Sentences.of(corpus.spans(), corpus.counts())
        pairs = draw_pairs(corpus.tokens, sentences, template, settings, np.random.default_rng(0))
        result[f"{strategy}_seconds"] = time.perf_counter() - start
        result[f"{strategy}_pairs"] = len(pairs)
        held = (pairs.spans, pairs.labels, pairs.cut)
        result[f"{strategy}_bytes_per_token"] = sum(array.nbytes for array in held) / tokens
    return result | {"peak_megabytes": figures(0, cache)["peak"]}


def write_corpus(path: Path, base, size: int, rng) -> None:
    """Write documents of random sentences, one per line: about ``size`` tokens of five characters."""
    lines = [line.split() for document in base.documents() for line in document]
    words = sorted({word for line in lines for word in line})
    written = 0
    with open(path, "w", encoding="utf-8") as file:
        while written < 5 * size:
            for number in rng.integers(len(lines), size=SENTENCES_A_DOCUMENT):
                first, second, place = rng.integers([len(words), len(words), len(lines[number])])
                line = lines[number].copy()
                line[place] = words[first][: len(words[first]) // 2] + words[second][len(words[second]) // 2 :]
                written += file.write(" ".join(line) + "\n")
            written += file.write("\n")


if __name__ == "__main__":
    main()
