#!/usr/bin/env python
"""How fast text becomes sentences on disk and then pairs, on one core, and how much memory that takes.

    python benchmarks/preparation.py

The corpora are made of the sample's sentences in random order, each ten times as long as the one before. Every size
is measured in a process of its own, so that its peak of memory is its own. Prints a table, and a line of JSON.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SIZES = (100_000, 1_000_000, 10_000_000)
MAX_SEQ_LENGTH = 128
SENTENCES_A_DOCUMENT = 12

# What is measured: key, title, format.
COLUMNS = (
    ("tokens", "tokens", ",d"),
    ("prepare_tokens_per_second", "prepared/s", ",.0f"),
    ("disk_bytes_per_token", "B/token", ".2f"),
    ("segment_pairs", "segment pairs", ",d"),
    ("segment_seconds", "s", ".2f"),
    ("segment_bytes_per_token", "B/token", ".2f"),
    ("sentence_pairs", "sentence pairs", ",d"),
    ("sentence_seconds", "s", ".2f"),
    ("sentence_bytes_per_token", "B/token", ".2f"),
    ("peak_megabytes", "peak MB", ",.0f"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=SIZES, help="sizes of the corpora, about")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure)))
        return
    results = []
    for size in args.tokens:
        argv = [sys.executable, __file__, "--measure", str(size)]
        child = subprocess.run(
            argv, check=True, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        results.append(json.loads(child.stdout.splitlines()[-1]))
    print(" | ".join(title for _, title, _ in COLUMNS))
    for result in results:
        print(" | ".join(f"{result[key]:>{len(title)}{form}}" for key, title, form in COLUMNS))
    print(json.dumps(results))


def measure(size: int) -> dict[str, float]:
    """Prepare a corpus of about so many tokens and draw an epoch of pairs from it, both strategies, on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ["RAYON_NUM_THREADS"] = "1"
    import numpy as np

    from cloze.corpus import FileCorpus
    from cloze.pairs import PairSettings, Sentences, draw_pairs
    from cloze.preparation import prepare
    from cloze.tokenization import pair_template_of, train_tokenizer

    sample = FileCorpus(tuple(sorted((ROOT / "sample").glob("*.txt"))))
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        tokenizer = train_tokenizer(sample, "bert", 8_000, True, cache, overwrite=False)
        text = cache / "corpus.txt"
        write_corpus(text, sample, size, np.random.default_rng(0))
        start = time.perf_counter()
        corpus = prepare(FileCorpus((text,)), tokenizer, cache, unit="sentence", with_words=False)
        seconds = time.perf_counter() - start
        tokens = len(corpus.tokens)
        (prepared,) = cache.glob("corpus-*[!k]/")
        result = {
            "tokens": tokens,
            "prepare_tokens_per_second": tokens / seconds,
            "disk_bytes_per_token": sum(path.stat().st_size for path in prepared.iterdir()) / tokens,
        }
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
    result["peak_megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return result


def write_corpus(path: Path, sample, size: int, rng) -> None:
    """Documents of random sentences of the sample, of about ``size`` tokens of five characters each."""
    sentences = [line for document in sample.documents() for line in document]
    written = 0
    with open(path, "w", encoding="utf-8") as file:
        while written < 5 * size:
            document = "\n".join(sentences[i] for i in rng.integers(len(sentences), size=SENTENCES_A_DOCUMENT))
            written += file.write(f"{document}\n\n")


if __name__ == "__main__":
    main()
