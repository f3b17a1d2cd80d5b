"""Read the docstrings of installed packages and split them, for adaptation.py."""

import ast
import csv
import importlib.metadata
import importlib.util
import random
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

PACKAGES = ("torch", "transformers", "scipy", "sklearn", "pandas", "sympy", "networkx", "matplotlib")
# What would give the package away: long names also within a word, short ones as words of their own.
NAMES = (*PACKAGES, "scikit[- _]?learn", "hugging ?face")
ALIASES = ("pd", "nx", "plt", "mpl", "pyplot", "pylab", "sp", "sk")
NAME = re.compile(rf"(?:py)?(?:{'|'.join(NAMES)})|(?<![^\W_])(?:{'|'.join(ALIASES)})(?![^\W_])", re.IGNORECASE)
NEUTRAL = "library"

MIN_CHARS, MAX_CHARS = 60, 600
MIN_WORDS = 8
# Least share of letters and spaces in a paragraph: code and formulas have less.
MIN_LETTERS = 0.88
# Most paragraphs of a file, because a few files have hundreds.
MAX_PARAGRAPHS = 150
# Paragraphs whose first or last letters are equal are duplicates: many docstrings are copies with another name in them.
DUPLICATE_LETTERS = 50
# A line of code, a title's underline, a directive, a field, a list's bullet, an entry of a table of parameters.
NOT_PROSE = re.compile(
    r"\s*(?:>>>|\.\.\.|[-=~^*#+|]{3,}|\.\. |:\w+|[-*+] |\d+[.)] |\||@|\[\d+\]"
    r"|[\w*`., /]{1,60}(?: ?\([^)]*\))? ?:(?: |$))"
)


class Paragraph(NamedTuple):
    """Hold a paragraph, the package it is from, and the file within the package."""

    text: str
    package: str
    file: str


class Texts(NamedTuple):
    """Hold the parts of the text; no file of a package is in two of them.

    Attributes:
        unlabelled: to pretrain on.
        held_out: to measure the masked loss on.
        pool: to draw labelled texts from.
        validation: labelled texts to choose settings on, balanced over the packages.
        test: labelled texts to report, balanced over the packages.
    """

    unlabelled: list[Paragraph]
    held_out: list[Paragraph]
    pool: list[Paragraph]
    validation: list[Paragraph]
    test: list[Paragraph]


def installed(packages: Sequence[str]) -> dict[str, str]:
    """Return the version of each package that is installed, "?" if its distribution is not known."""
    distributions = importlib.metadata.packages_distributions()
    return {
        package: importlib.metadata.version(distributions[package][0]) if package in distributions else "?"
        for package in packages
        if importlib.util.find_spec(package) is not None
    }


def read_packages(packages: Sequence[str]) -> list[Paragraph]:
    """Return the paragraphs of the packages' docstrings, without duplicates and without the packages' names."""
    found, seen = [], set()
    for package in packages:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations
        folder = Path(spec.submodule_search_locations[0])
        for path, text in paragraphs_in(folder, sorted(folder.rglob("*.py"))):
            hidden = NAME.sub(NEUTRAL, text)
            letters = re.sub(r"[^a-z]", "", hidden.lower())
            ends = {letters[:DUPLICATE_LETTERS], letters[-DUPLICATE_LETTERS:]}
            if ends.isdisjoint(seen):
                found.append(Paragraph(hidden, package, path.relative_to(folder).as_posix()))
            seen |= ends
    return found


def read_general() -> list[str]:
    """Return text on other subjects: the sample's articles, and paragraphs of the standard library's docstrings."""
    articles = [part for path in sorted((ROOT / "sample").glob("*.txt")) for part in path.read_text().split("\n\n")]
    sentences = [" ".join(article.split()) for article in articles]
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = [path for path in sorted(folder.rglob("*.py")) if "site-packages" not in path.parts]
    return list(dict.fromkeys(sentences + [text for _, text in paragraphs_in(folder, files)]))


def paragraphs_in(folder: Path, files: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Yield the paragraphs of prose in the docstrings of files, except tests, each with its file."""
    for path in files:
        if "test" not in path.relative_to(folder).as_posix():
            texts = (text for docstring in docstrings(path) for text in prose(docstring))
            yield from ((path, text) for text, _ in zip(texts, range(MAX_PARAGRAPHS), strict=False))


def docstrings(path: Path) -> Iterator[str]:
    """Yield the docstrings of a source file, without importing it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of invalid escapes
        try:
            tree = ast.parse(path.read_bytes())
        except SyntaxError:
            return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def prose(docstring: str) -> Iterator[str]:
    """Yield the paragraphs of a docstring that are whole sentences, each on one line."""
    for lines in blocks(docstring):
        text = " ".join(" ".join(lines).split())
        letters = sum(character.isalpha() or character == " " for character in text)
        if (
            MIN_CHARS <= len(text) <= MAX_CHARS
            and len(text.split()) >= MIN_WORDS
            and text[0].isupper()
            and text[-1] in ".:!?"
            and letters >= MIN_LETTERS * len(text)
            and not any(NOT_PROSE.match(line) for line in lines)
        ):
            yield text


def blocks(docstring: str) -> Iterator[list[str]]:
    """Yield runs of lines that have the same indentation: so a parameter's description is without name and type."""
    indented = ((len(line) - len(line.lstrip()), line) for line in docstring.splitlines())
    for _, lines in groupby(indented, key=lambda pair: pair[0] if pair[1].strip() else -1):
        yield [line for _, line in lines]


def split(found: Sequence[Paragraph], unlabelled: int, pool: int, evaluated: int, rng: random.Random) -> Texts:
    """Split paragraphs by file.

    Args:
        found: all paragraphs.
        unlabelled: number of paragraphs to pretrain on, at most.
        pool: labelled texts to draw from, per package.
        evaluated: labelled texts to choose settings on, and as many to test on, per package.
        rng: of the files and of the paragraphs.
    """
    parts: dict[str, list[Paragraph]] = {"pool": [], "validation": [], "test": []}
    rest = []
    for package in dict.fromkeys(paragraph.package for paragraph in found):
        files: dict[str, list[Paragraph]] = {}
        for paragraph in found:
            if paragraph.package == package:
                files.setdefault(paragraph.file, []).append(paragraph)
        names = sorted(files)
        rng.shuffle(names)
        for part, count in (("test", evaluated), ("validation", evaluated), ("pool", pool)):
            taken: list[Paragraph] = []
            while len(taken) < count and names:
                taken += files[names.pop()]
            if len(taken) < count:
                sys.exit(f"{package}: too few paragraphs for {part}")
            parts[part] += rng.sample(taken, count)
        rest += [paragraph for name in names for paragraph in files[name]]
    rng.shuffle(rest)
    held_out = len(rest) // 20
    return Texts(rest[held_out:][:unlabelled], rest[:held_out], **parts)


def draw(pool: Sequence[Paragraph], per_class: int, seed: int) -> list[Paragraph]:
    """Draw labelled texts to train on; the larger draw of a seed has all texts of the smaller one."""
    drawn = []
    for package in dict.fromkeys(paragraph.package for paragraph in pool):
        texts = [paragraph for paragraph in pool if paragraph.package == package]
        random.Random(f"{seed} {package}").shuffle(texts)
        drawn += texts[:per_class]
    return drawn


def write_labelled(path: Path, texts: Sequence[Paragraph]) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows((text.text, text.package) for text in texts)
    return path


def write_lines(path: Path, texts: Sequence[str]) -> Path:
    """Write one document per line."""
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return path
