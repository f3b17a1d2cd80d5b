"""Flags -> corpora: files, folders of save_to_disk, data sets of the Hub."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import datasets
import pyarrow

from cloze.config.arguments import ModelArguments
from cloze.config.data_arguments import DataArguments
from cloze.errors import UserError
from cloze.text.corpus import Corpus, FileCorpus, HubCorpus
from cloze.text.files import find_files, is_saved

# What the datasets library meets where its cache is full, or another user's.
CANNOT_WRITE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def find_corpora(
    data_args: DataArguments,
    model_args: ModelArguments,
    do_train: bool,
    do_eval: bool,
    output_dir: str | None = None,
) -> tuple[Corpus | None, Corpus | None]:
    """The training and the validation corpus. Without the latter, part of the former is to be held out.

    What lies in ``output_dir`` or in the cache is not read as text.
    """
    if not (do_train or do_eval):
        return None, None
    own = {"--cache_dir": Path(model_args.cache_dir or datasets.config.HF_DATASETS_CACHE)}
    if output_dir is not None:
        own["--output_dir"] = Path(output_dir)
    if data_args.dataset_name:
        if not is_saved(folder := Path(os.path.expanduser(data_args.dataset_name))):
            _check_apart(folder, own)
        return load_hub(data_args, model_args, do_train, do_eval)
    # Without --do_train the training text still matters: the documents held out of it are evaluated.
    needs_train = data_args.train_file and (do_train or not data_args.validation_file)
    train = _find_corpus(data_args, "train", own) if needs_train else None
    needs_validation = data_args.validation_file and do_eval
    validation = _find_corpus(data_args, "validation", own) if needs_validation else None
    return train, validation


def _check_apart(folder: Path, own: Mapping[str, Path]) -> None:
    """Raise UserError for a folder of ``own`` in a data set on disk, all of whose files the library reads."""
    for name, path in own.items():
        if os.path.isdir(folder) and path.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"{name} {path} lies in {folder}, whose files are all read as data: give a folder outside of it"
            )


def _find_corpus(data_args: DataArguments, split: str, own: Mapping[str, Path]) -> Corpus:
    """Return the files that --train_file or --validation_file names, or the folder of save_to_disk."""
    flag, patterns = f"--{split}_file", getattr(data_args, f"{split}_file")
    folder = Path(os.path.expanduser(patterns[0]))
    if len(patterns) > 1 or not is_saved(folder):
        return FileCorpus(find_files(patterns, flag, own), data_args.text_column, data_args.reader_settings)
    rows = _load_saved(folder, flag)
    if isinstance(rows, datasets.DatasetDict):
        if split not in rows:
            raise UserError(
                f"{flag} {folder} has no split named {split}: give {folder}/SPLIT, one of {', '.join(rows)}"
            )
        folder, rows = folder / split, rows[split]
    return HubCorpus(str(folder), rows, data_args.text_column)


def _load_saved(folder: Path, flag: str) -> datasets.Dataset | datasets.DatasetDict:
    try:
        # In plain Python, and all columns, however it was formatted when it was saved.
        return datasets.load_from_disk(str(folder)).with_format(None)
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
        raise UserError(f"{flag} {folder} cannot be loaded: save it again ({str(error)[:300]})") from None


def load_hub(
    data_args: DataArguments, model_args: ModelArguments, do_train: bool, do_eval: bool
) -> tuple[Corpus | None, Corpus | None]:
    name = data_args.dataset_name
    folder = Path(os.path.expanduser(name))
    if is_saved(folder):
        splits = _load_saved(folder, "--dataset_name")
        splits = splits if isinstance(splits, datasets.DatasetDict) else {"train": splits}
    else:
        splits = _load_dataset(data_args, model_args)
    corpora = {split: HubCorpus(f"{name} ({split})", rows, data_args.text_column) for split, rows in splits.items()}
    validation = corpora.get("validation") if do_eval else None
    if "train" not in corpora and (do_train or validation is None):
        raise UserError(f"--dataset_name {name} has no split named train (splits: {', '.join(corpora)})")
    if data_args.streaming and do_eval and validation is None:
        raise UserError(f"--dataset_name {name} has no validation split to evaluate on while streaming: drop --do_eval")
    return corpora.get("train") if do_train or validation is None else None, validation


def _load_dataset(data_args: DataArguments, model_args: ModelArguments) -> datasets.DatasetDict:
    name = data_args.dataset_name
    try:
        return datasets.load_dataset(
            name,
            data_args.dataset_config_name,
            cache_dir=model_args.cache_dir,
            token=model_args.token,
            streaming=data_args.streaming,
        )
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        cause = error.__cause__ or error
        in_cache = isinstance(cause, OSError) and cause.errno in CANNOT_WRITE
        cure = "make room, or give a --cache_dir of your own" if in_cache else "check the name"
        raise UserError(f"--dataset_name {name} cannot be loaded: {cure} ({str(cause)[:300]})") from None
