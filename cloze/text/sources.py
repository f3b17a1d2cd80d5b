"""Find the corpora that the flags name: files, folders written by save_to_disk, data sets on the Hub."""

import errno
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import datasets
import pyarrow

from cloze.config.data_arguments import DataArguments
from cloze.errors import UserError
from cloze.text.corpus import Corpus, FileCorpus, HubCorpus
from cloze.text.files import find_files, is_saved, printable

logger = logging.getLogger(__name__)

# Errors of the datasets library if its cache is full or belongs to another user.
CANNOT_WRITE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Corpora(NamedTuple):
    """Hold the training and the validation texts by name, "" for one without; empty if they are not needed."""

    train: dict[str, Corpus]
    validation: dict[str, Corpus]

    @property
    def all(self) -> list[Corpus]:
        """List all texts, those for training first."""
        return [*self.train.values(), *self.validation.values()]


def find_corpora(
    data_args: DataArguments,
    do_train: bool,
    do_eval: bool,
    *,
    output_dir: str | None = None,
    cache_dir: str | None = None,
    token: str | None = None,
) -> Corpora:
    """Return the training and the validation texts that are needed.

    To evaluate without a validation text, the caller holds out part of each training text. Files in ``output_dir``
    and in ``cache_dir``, by default the datasets library's cache, are not read as text. ``token`` gives access to
    private data sets on the Hub. Raises UserError for text that is missing or cannot be loaded.
    """
    if not (do_train or do_eval):
        return Corpora({}, {})
    outputs = {"--cache_dir": Path(cache_dir or datasets.config.HF_DATASETS_CACHE)}
    if output_dir is not None:
        outputs["--output_dir"] = Path(output_dir)
    if data_args.dataset_name:
        folder = Path(os.path.expanduser(data_args.dataset_name))
        if is_saved(folder):
            splits = _load_saved(folder, "--dataset_name")
            splits = splits if isinstance(splits, datasets.DatasetDict) else {"train": splits}
        else:
            _check_apart(folder, outputs)
            splits = _load_dataset(data_args, cache_dir, token)
        return _choose_splits(splits, data_args, do_train, do_eval)
    # Without --do_train, the documents held out of the training text are evaluated.
    train, validation = data_args.train_sources, data_args.validation_sources
    return Corpora(
        _find_each(train, "train", data_args, outputs) if do_train or not validation else {},
        _find_each(validation, "validation", data_args, outputs) if do_eval else {},
    )


def warn_of_overlap(corpora: Corpora) -> None:
    """Warn of files that are both trained on and evaluated on, as happens with general text for replay."""
    training, validation = (
        {path.resolve(): path for corpus in texts.values() if isinstance(corpus, FileCorpus) for path in corpus.files}
        for texts in corpora
    )
    both = [printable(path) for real, path in validation.items() if real in training]
    if both:
        logger.warning(
            "%s%s in --validation_file and in --train_file: figures on a text that was trained on do not show how the "
            "model does on new text; evaluate on other text",
            both[0],
            f" and {len(both) - 1} more files are" if len(both) > 1 else " is",
        )


def _check_apart(folder: Path, outputs: Mapping[str, Path]) -> None:
    """Raise UserError for an output folder inside a data set on disk, because the library reads all files there."""
    for name, path in outputs.items():
        if os.path.isdir(folder) and path.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"{name} {path} is inside {folder}, where all files are read as data: give a folder outside it"
            )


def _find_each(
    sources: dict[str, list[str]], split: str, data_args: DataArguments, outputs: Mapping[str, Path]
) -> dict[str, Corpus]:
    """Return the texts of --train_file or --validation_file by name."""
    return {name: _find_corpus(patterns, split, data_args, outputs) for name, patterns in sources.items()}


def _find_corpus(patterns: Sequence[str], split: str, data_args: DataArguments, outputs: Mapping[str, Path]) -> Corpus:
    """Return one text of --train_file or --validation_file: files, or a folder written by save_to_disk."""
    flag = f"--{split}_file"
    folder = Path(os.path.expanduser(patterns[0]))
    if len(patterns) > 1 or not is_saved(folder):
        return FileCorpus(find_files(patterns, flag, outputs), data_args.text_column, data_args.reader_settings)
    rows = _load_saved(folder, flag)
    if isinstance(rows, datasets.DatasetDict):
        if split not in rows:
            raise UserError(
                f"{flag} {folder} has no split named {split}: give {folder}/SPLIT, one of {', '.join(rows)}"
            )
        folder, rows = folder / split, rows[split]
    return HubCorpus(str(folder), rows, data_args.text_column)


def _load_saved(folder: Path, flag: str) -> datasets.Dataset | datasets.DatasetDict:
    """Load a folder that save_to_disk wrote; raise UserError if that fails."""
    try:
        # The saved format may hide columns or convert values.
        return datasets.load_from_disk(str(folder)).with_format(None)
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
        raise UserError(f"{flag} {folder} cannot be loaded: save it again ({str(error)[:300]})") from None


def _choose_splits(
    splits: Mapping[str, datasets.Dataset | datasets.IterableDataset],
    data_args: DataArguments,
    do_train: bool,
    do_eval: bool,
) -> Corpora:
    """Return the training and validation splits that are needed; raise UserError if one is missing."""
    name = data_args.dataset_name
    corpora = {split: HubCorpus(f"{name} ({split})", rows, data_args.text_column) for split, rows in splits.items()}
    validation = "validation" in corpora and do_eval
    if "train" not in corpora and (do_train or not validation):
        raise UserError(f"--dataset_name {name} has no split named train (splits: {', '.join(corpora)})")
    if data_args.streaming and do_eval and not validation:
        raise UserError(f"--dataset_name {name} has no validation split to evaluate on while streaming: drop --do_eval")
    return Corpora(
        {"": corpora["train"]} if do_train or not validation else {},
        {"": corpora["validation"]} if validation else {},
    )


def _load_dataset(
    data_args: DataArguments, cache_dir: str | None, token: str | None
) -> datasets.DatasetDict | datasets.IterableDatasetDict:
    """Load the data set of --dataset_name; raise UserError if that fails."""
    name = data_args.dataset_name
    try:
        return datasets.load_dataset(
            name,
            data_args.dataset_config_name,
            cache_dir=cache_dir,
            token=token,
            streaming=data_args.streaming,
        )
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        cause = error.__cause__ or error
        in_cache = isinstance(cause, OSError) and cause.errno in CANNOT_WRITE
        cure = "free disk space, or give a writable --cache_dir" if in_cache else "check the name"
        raise UserError(f"--dataset_name {name} cannot be loaded: {cure} ({str(cause)[:300]})") from None
