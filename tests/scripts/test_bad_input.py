"""What a user can get wrong ends in one line that names the culprit and the cure, with exit code 2 and no traceback."""

import gzip
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import zstandard
from huggingface_hub.errors import HTTPError
from tokenizers import Tokenizer, models
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    BertConfig,
    EsmConfig,
    EsmTokenizer,
    GPT2Config,
    PreTrainedTokenizerFast,
)

import run_clm
import run_mlm
import run_nsp
import run_pretraining
from cloze.system.locks import RUN_LOCK
from cloze.training.trainer import PretrainingTrainer
from tests.utils import driver

LONG = b"a text that is longer than the part that is left of it\n" * 99

# The cases run in a folder of these files and of the models that ``workplace`` adds.
FILES = {
    "words.txt": b"The moon is far.\nThe sun is farther.\nThe stars are farther still.\n",
    "one.txt": b"A single line, thus a single document.\n",
    "empty.txt": b"",
    # Of a script that no tokenizer here knows; of words that are longer than WordPiece takes; of no words.
    "cuneiform.txt": "\U00012000 \U00012001\n\n\U00012000 \U00012002\n\n\U00012000".encode(),
    "letters.txt": b"ACGT" * 300,
    "special.txt": b"[SEP] [SEP]\n\n[CLS] [MASK]\n\n[SEP]\n",
    "blank.txt": b"\n \n\t\n\r\n",
    "notes.docx": b"not text",
    "pictures/cat.png": b"not text",
    "latin1.txt": b"one\ntwo\nd\xe9j\xe0 vu\n",
    "latin1.csv": b"text\nd\xe9j\xe0 vu\n",
    "no.txt.gz": b"not gzip",
    "cut.txt.gz": gzip.compress(LONG)[:-20],
    "no.txt.zst": b"not zstandard",
    "cut.txt.zst": zstandard.compress(LONG)[:-20],
    "books.csv": b"title,author\nEmma,Austen\n",
    "header.csv": b"text,author\n",
    "comma.csv": b"text,year\nEmma,1815\nWar, and Peace,1869\n",
    "quote.csv": b'text,year\nEmma,1815\n"Ulysses,1922\n',
    "headless.csv": b"The moon is far.\nThe sun is farther.\n",
    "twice.csv": b"text,text\na,b\n",
    "quotes.tsv": b'text\tlabel\n"To be\tx\nor not to be"\ty\n',
    "broken.jsonl": b'{"text": "good"}\n{"text": "bad\n',
    "bare.jsonl": b'{"text": "good"}\n"bad"\n',
    "gap.jsonl": b'{"text": "good"}\n{"title": "bad"}\n',
    "surrogate.jsonl": b'{"text": "good"}\n{"text": "half an emoji \\ud83d"}\n',
    "null.jsonl": b'{"title": "Emma", "body": null}\n{"title": "Ulysses", "body": "Stately"}\n',
    "documented/README.md": b"notes of the user",
    "broken.json": b'[{"text": "good"},\n {"text": }]',
    "numbers.json": b'[{"text": "good"}, {"text": 42}]',
    "broken.parquet": b"not parquet",
    "hub/train.jsonl": b'{"title": "Emma", "author": "Austen"}\n',
    "good.yaml": b"train_file: words.txt\n",
    "recipe.txt": b"do_train: true\n",
    "unknown.yaml": b"lerning_rate: 1e-4\n",
    "list.yaml": b"- do_train\n- do_eval\n",
    "python.yaml": b"do_train: true\nseed: !!python/object/apply:os.mkdir [executed]\n",
    "syntax.yaml": b"do_train: true\noutput_dir: [out\nseed: 1\n",
    "syntax.json": b'{"do_train": true,\n "seed": }\n',
    "number.yaml": b"learning_rate: fast\n",
    "null.yaml": b"learning_rate: null\n",
    "taken/model.safetensors": b"{}",
    "documents.txt": b"The moon is far. It is cold.\n\nSalt stays. Water goes.\n\nDrums beat. Strings sing.\n",
    "sentences.txt": b"The moon is far.\n\nThe sun is farther.\n\nThe stars are farther still.\n",
    "pairs.csv": b"sentence_a,sentence_b,label\nThe moon is far.,It is cold.,0\n",
    "pairs.txt": b"The moon is far.\tIt is cold.\n",
    "one_column.csv": b"sentence_a,label\nThe moon is far.,0\n",
    "no_text.csv": b"sentence_a,sentence_b\nThe moon is far.,\n",
    "three.csv": b"sentence_a,sentence_b,label\na,b,0\nc,d,2\n",
    "boolean.jsonl": b'{"sentence_a": "a", "sentence_b": "b", "label": true}\n',
    "hidden.txt": b"The [MASK] is far.\n",
    "unhidden.txt": b"The [MASK] is far.\n\nThe sun is farther.\n",
    "unhidden.csv": b"title,body\nEmma,The [MASK] is far.\nUlysses,Stately\n",
    "half_pair.jsonl": b'{"sentence_a": "a", "sentence_b": "half an emoji \\ud83d"}\n',
    "number.jsonl": b'{"sentence_a": "a", "sentence_b": 2}\n',
    "no_pairs.csv": b"sentence_a,sentence_b,label\n",
}

Case = namedtuple("Case", "name argv culprit cure")

# Valid flags. The flags of a case follow them; if a flag is given twice, the last value counts.
RIGHT = "--model_name_or_path bert --train_file words.txt --do_train "
MISTAKES = [
    # Files
    Case("file missing", "--train_file nowhere.txt", "--train_file: nowhere.txt not found", "check the path"),
    Case("validation missing", "--do_eval --validation_file nowhere.txt", "--validation_file: nowhere.txt", "check"),
    Case("file name too long", f"--train_file {'word' * 99}", "--train_file: wordword", "File name too long"),
    Case("home unknown", "--train_file ~nobodyx/a.txt", "--train_file: ~nobodyx/a.txt not found", "check the path"),
    Case("file name empty", "--train_file ''", "--train_file", "give"),
    Case("file empty", "--train_file empty.txt", "empty.txt holds no text", "it is empty"),
    Case("blank lines only", "--train_file blank.txt", "blank.txt holds no text", "its lines are blank"),
    Case("folder without text", "--train_file pictures", "folder pictures holds no", ".txt .csv .tsv .json .jsonl"),
    Case("glob without match", "--train_file shards/*.txt", "shards/*.txt not found", "check the path"),
    Case("format unknown", "--train_file one.txt notes.docx", "notes.docx is not a .txt .csv .tsv", ".gz, .zst"),
    Case("not UTF-8", "--train_file latin1.txt", "latin1.txt, line 3: byte 0xe9 is not UTF-8", "iconv"),
    Case("csv not UTF-8", "--train_file latin1.csv", "latin1.csv, line 2: byte 0xe9 is not UTF-8", "iconv"),
    Case("no gzip", "--train_file no.txt.gz", "no.txt.gz cannot be read after line 0: Not a gzip", "again"),
    Case("gzip cut off", "--train_file cut.txt.gz", "cut.txt.gz cannot be read", "again"),
    Case("no zstandard", "--train_file no.txt.zst", "no.txt.zst cannot be read", "again"),
    Case("zstandard cut off", "--train_file cut.txt.zst", "cut.txt.zst cannot be read", "again"),
    Case("no parquet", "--train_file broken.parquet", "broken.parquet cannot be read as parquet", "again"),
    # Tables
    Case("column missing", "--train_file books.csv --text_column body", "--text_column body", "columns: title, author"),
    Case(
        "document too long",
        "--train_file words.txt --max_document_chars 18",
        "words.txt, line 2: document longer than 18 characters",
        "raise --max_document_chars",
    ),
    Case("no document", "--max_document_chars 0", "--max_document_chars 0 is less than 1", "give the length of"),
    Case("two columns", "--train_file books.csv", "books.csv", "give --text_column NAME (columns: title, author)"),
    Case("no rows", "--train_file header.csv", "header.csv holds no text", "it is empty"),
    Case("too many fields", "--train_file comma.csv", "comma.csv, line 3: 3 fields", "quote the text"),
    Case("quote left open", "--train_file quote.csv", "quote.csv, line 3", "check the quotes"),
    Case("jsonl broken", "--train_file broken.jsonl", "broken.jsonl, line 2: not JSON", "every line must be an object"),
    Case("jsonl without object", "--train_file bare.jsonl", "bare.jsonl, line 2: not an object", '{"text": "..."}'),
    Case("jsonl with a gap", "--train_file gap.jsonl", "gap.jsonl, line 2: no column 'text'", "columns: title"),
    Case("surrogate", "--train_file surrogate.jsonl", "surrogate.jsonl, line 2 contains an unpaired", "as UTF-8"),
    Case("null in a column", "--train_file null.jsonl", "null.jsonl", "give --text_column NAME (columns: title, body)"),
    Case("json broken", "--train_file broken.json", "broken.json, line 2: not JSON", "array of objects"),
    Case(
        "text no string",
        "--train_file numbers.json",
        "numbers.json, row 1: column 'text' holds int",
        "--text_column NAME",
    ),
    Case(
        "lost header",
        "--train_file headless.csv",
        "only column name, 'The moon is far.', looks",
        "the header line text",
    ),
    Case("same names", "--train_file twice.csv", "twice.csv: 2 columns are named text", "rename them"),
    Case("row over lines", "--train_file quotes.tsv", "quotes join lines 2 to 3", "give --csv_quoting none"),
    Case("long delimiter", "--csv_delimiter ::", "--csv_delimiter '::' is not one character", "give one, such as ';'"),
    Case("no language code", "--language German", "--language German is not an ISO 639 code", "such as en, de"),
    # Data
    Case("data set and file", "--dataset_name hub", "--dataset_name and --train_file", "give one of them"),
    Case("stream without steps", "--streaming", "--streaming", "give --max_steps N"),
    Case(
        "stream not split", "--streaming --max_steps 1 --do_eval", "--streaming cannot hold", "give --validation_file"
    ),
    Case(
        "mixture of one text",
        "--train_file a=words.txt --mixture a=1",
        "--mixture needs two or more named texts",
        "give --train_file NAME=PATH NAME=PATH",
    ),
    Case(
        "unknown name in a mixture",
        "--train_file a=words.txt b=documents.txt --mixture a=0.8 c=0.2",
        "--mixture has the names a, c, but --train_file a, b",
        "give a share for each of these",
    ),
    Case(
        "share of 0",
        "--train_file a=words.txt b=documents.txt --mixture a=1 b=0",
        "--mixture b=0: a share is a number above 0",
        "raise it, or drop the text",
    ),
    Case(
        "mixture not shuffled",
        "--train_file a=words.txt b=documents.txt --mixture a=0.8 b=0.2 --train_sampling_strategy sequential",
        "--mixture and --train_sampling_strategy sequential exclude each other",
        "drop one of them",
    ),
    Case(
        "named stream without shares",
        "--train_file a=words.txt b=documents.txt --streaming --max_steps 1",
        "--streaming several named texts needs the share of each",
        "add --mixture NAME=SHARE",
    ),
    Case("nothing left", "--train_file one.txt --do_eval", "of 1 documents leaves none", "give --validation_file"),
    Case("0 % held out", "--validation_split_percentage 0", "--validation_split_percentage 0", "above 0 and below 100"),
    Case(
        "all held out",
        "--validation_split_percentage 100",
        "--validation_split_percentage 100",
        "above 0 and below 100",
    ),
    Case("no training samples", "--max_train_samples 0", "--max_train_samples 0 is less than 1", "omit it"),
    Case("no evaluation samples", "--max_eval_samples 0", "--max_eval_samples 0 is less than 1", "omit it"),
    Case("cut lines of blocks", "--truncate_long_lines", "--truncate_long_lines needs --line_by_line", "add it"),
    Case("no such backend", "--tokenizer_backend rust", "invalid choice: 'rust'", "'nanotoken'"),
    Case(
        "no WordPiece for nanotoken",
        "--model_name_or_path roberta --tokenizer_backend nanotoken",
        "--tokenizer_backend nanotoken needs a fast WordPiece tokenizer, and RobertaTokenizer is BPE",
        "drop the flag",
    ),
    Case(
        "whole words by nanotoken",
        "--tokenizer_backend nanotoken --whole_word_mask",
        "--tokenizer_backend nanotoken does not mark where words begin",
        "drop it, or them",
    ),
    Case(
        "stream by nanotoken",
        "--tokenizer_backend nanotoken --streaming --max_steps 1",
        "--tokenizer_backend nanotoken does not work with --streaming",
        "drop one of them",
    ),
    *(
        Case(
            f"unknown script{flags}",
            f"--train_file cuneiform.txt{flags}",
            "cuneiform.txt: 100.0% of the tokens are [UNK]: the tokenizer bert (BertTokenizer) lacks",
            "give a model or --tokenizer_name for such text",
        )
        for flags in ("", " --streaming --max_steps 1", " --line_by_line", " --validation_file words.txt --do_eval")
    ),
    Case(
        "unknown held-out text",
        "--do_eval --validation_file cuneiform.txt",
        "cuneiform.txt: 100.0% of the tokens are [UNK]",
        "--tokenizer_name",
    ),
    *(
        Case(
            f"special tokens alone{flags}",
            f"--train_file special.txt{flags}",
            "special.txt: nothing can be predicted",
            "give more text",
        )
        for flags in ("", " --streaming --max_steps 1")
    ),
    # Masks
    Case("nothing masked", "--mlm_probability 0", "--mlm_probability 0.0", "above 0 and below 1"),
    Case("more than all masked", "--mlm_probability 1.5", "--mlm_probability 1.5", "above 0 and below 1"),
    Case("none masked to evaluate", "--eval_mlm_probability 0", "--eval_mlm_probability 0.0", "above 0 and below 1"),
    Case("negative share", "--mask_replace_prob -1", "--mask_replace_prob -1.0", "between 0 and 1"),
    Case("shares above 1", "--random_replace_prob 0.3", "--random_replace_prob add up to more than 1", "lower one"),
    Case(
        "whole words, slow tokenizer",
        "--model_name_or_path esm --whole_word_mask",
        "--whole_word_mask: EsmTokenizer is a slow tokenizer",
        "drop the flag",
    ),
    Case(
        "whole words in evaluations, slow tokenizer",
        "--model_name_or_path esm --do_eval --eval_whole_word_mask",
        "--eval_whole_word_mask: EsmTokenizer is a slow tokenizer",
        "drop the flag",
    ),
    # Flags
    Case("flag misspelt", "--trainfile words.txt", "unknown argument --trainfile", "did you mean --train_file?"),
    Case("flag like no other", "--xyzzy", "unknown argument --xyzzy", "--help lists the flags"),
    Case("recipe not first", "--seed 1 good.yaml", "good.yaml", "first"),
    Case("no number", "--learning_rate fast", "--learning_rate", "invalid float value: 'fast'"),
    Case("no such optimizer", "--optim adamm", "--optim: invalid choice: 'adamm'", "'adamw_torch'"),
    Case("no such optimizer of ours", "--optim muonn", "--optim: invalid choice: 'muonn'", "'muon'"),
    Case("negative rate", "--optim muon --muon_learning_rate -1", "--muon_learning_rate -1.0 is negative", "0 or more"),
    Case("rate without Muon", "--muon_learning_rate 0.01", "--muon_learning_rate needs --optim muon", "drop the rate"),
    Case(
        "embedding rate of another optimizer",
        "--embedding_learning_rate 0.01 --optim adafactor",
        "--embedding_learning_rate needs --optim adamw_torch, adamw_torch_fused or muon",
        "change --optim",
    ),
    Case("arguments of Muon", "--optim muon --optim_args a=1", "--optim muon does not use --optim_args", "drop it"),
    Case("Muon with FSDP", "--optim muon --fsdp full_shard", "--optim muon does not support FSDP", "drop it"),
    Case("no such precision", "--dtype float8", "--dtype: invalid choice: 'float8'", "'bfloat16'"),
    Case(
        "schedule without decay",
        "--lr_scheduler_type warmup_stable_decay",
        "--lr_scheduler_type warmup_stable_decay needs --lr_scheduler_kwargs",
        '{"num_decay_steps": 0.2}',
    ),
    Case("no dict", "--lr_scheduler_kwargs {min_lr:0}", "--lr_scheduler_kwargs", "double quotes"),
    Case(
        "schedule without JSON",
        "--lr_scheduler_type warmup_stable_decay --lr_scheduler_kwargs num_decay_steps=0.2",
        "--lr_scheduler_kwargs num_decay_steps=0.2 is not a JSON object",
        '{"num_decay_steps": 0.2}',
    ),
    Case("schedule without end", "--lr_scheduler_type cosine_with_min_lr", "min_lr", "--lr_scheduler_kwargs"),
    Case(
        "unknown argument of the schedule",
        "--lr_scheduler_kwargs '{\"cycles\":2}'",
        "--lr_scheduler_type linear with --lr_scheduler_kwargs {'cycles': 2}: ",
        "unexpected keyword argument 'cycles'",
    ),
    Case(
        "end above the peak",
        "--lr_scheduler_type polynomial --lr_scheduler_kwargs '{\"lr_end\":0.1}'",
        "--lr_scheduler_type polynomial with --lr_scheduler_kwargs {'lr_end': 0.1}: ",
        "must be smaller than initial lr",
    ),
    Case("numbers of cycles", "--lr_scheduler_kwargs [2]", "--lr_scheduler_kwargs [2] is not a JSON object", "write"),
    Case("empty batches", "--per_device_train_batch_size 0", "--per_device_train_batch_size 0", "less than 1"),
    Case("no accumulation", "--gradient_accumulation_steps 0", "--gradient_accumulation_steps 0", "less than 1"),
    Case("no checkpoint kept", "--save_total_limit 0", "--save_total_limit 0", "--save_strategy no"),
    Case("best of none", "--load_best_model_at_end", "--load_best_model_at_end", "save and eval strategy to match"),
    Case("tracker missing", "--report_to neptune", "--report_to neptune", "pip install neptune"),
    Case("negative seed", "--seed -1", "--seed -1", "0 or more"),
    Case("huge seed", "--seed 5000000000", "--seed 5000000000", "less than 4294967296"),
    Case("no decay", "--ema_decay 0", "--ema_decay 0.0 is not between 0 and 1", "0.999"),
    Case("nothing new averaged", "--ema_decay 1", "--ema_decay 1.0 is not between 0 and 1", "0.999"),
    Case(
        "averaged twice",
        "--ema_decay 0.9 --optim schedule_free_adamw",
        "--ema_decay: --optim schedule_free_adamw averages the weights itself",
        "drop one",
    ),
    Case("beta of Adam", "--adam_beta1 2", "--adam_beta1 2.0", "between 0 and 1"),
    Case("other sampling", "--train_sampling_strategy shortest", "invalid choice: 'shortest'", "'group_by_length'"),
    Case(
        "budget of random batches",
        "--max_tokens_per_batch 999 --train_sampling_strategy random",
        "--max_tokens_per_batch needs --train_sampling_strategy group_by_length",
        "drop one",
    ),
    Case(
        "budget below an example",
        "--max_tokens_per_batch 31 --max_seq_length 32",
        "--max_tokens_per_batch 31 is less than --max_seq_length 32, the longest example",
        "raise it to 32 or more",
    ),
    Case(
        "budget and search",
        "--max_tokens_per_batch 999 --auto_find_batch_size",
        "--auto_find_batch_size and --max_tokens_per_batch exclude each other",
        "drop one",
    ),
    Case("no budget", "--max_tokens_per_batch 0", "--max_tokens_per_batch 0 is less than", "raise it to 66 or more"),
    Case("negative learning rate", "--learning_rate -1", "--learning_rate -1", "0 or more"),
    Case("negative workers", "--dataloader_num_workers -1", "--dataloader_num_workers -1", "0 or more"),
    Case("labels smoothed away", "--label_smoothing_factor 3", "--label_smoothing_factor 3", "between 0 and 1"),
    Case(
        "best by a metric that is not",
        "--do_eval --load_best_model_at_end --eval_strategy steps --metric_for_best_model fun",
        "--metric_for_best_model fun",
        "accuracy",
    ),
    Case("cache_dir a file", "--cache_dir words.txt", "--cache_dir words.txt", "give a writable folder"),
    # Model and tokenizer
    Case("model and type", "--model_type bert", "--model_type and --model_name_or_path exclude each other", "or adapt"),
    Case("checkpoint overridden", "--config_overrides hidden_size=32", "--config_overrides", "drop it"),
    Case("model missing", "--model_name_or_path nowhere", "--model_name_or_path nowhere", "folder with a config.json"),
    Case("no model there", "--model_name_or_path hub", "--model_name_or_path hub", "folder with a config.json"),
    Case("model without masks", "--model_name_or_path gpt2", "gpt2 has no masked-language", "such as bert, distilbert"),
    Case("tokenizer missing", "--tokenizer_name nowhere", "--tokenizer_name nowhere", "give --tokenizer_name PATH"),
    Case("model alone", "--model_name_or_path alone", "--model_name_or_path alone: no tokenizer", "--tokenizer_name"),
    Case(
        "tokenizer without mask", "--tokenizer_name no_mask", "no mask token", "set mask_token in its tokenizer_config"
    ),
    Case(
        "tokenizer without pad", "--tokenizer_name no_pad", "no padding token", "set pad_token in its tokenizer_config"
    ),
    Case(
        "no special tokens",
        "--tokenizer_name no_special",
        "no_special: the tokenizer (TokenizersBackend) adds no special tokens",
        "set cls_token and sep_token",
    ),
    Case("tokenizer too large", "--tokenizer_name large", "1,000 tokens, the model's", "leave out --tokenizer_name"),
    Case("too short", "--max_seq_length 7", "--max_seq_length 7 is too short", "give 8 or more"),
    Case("too long for BERT", "--max_seq_length 67", "--max_seq_length 67", "the model's 66 positions: lower it"),
    # Of RoBERTa's 66 positions, those up to the padding token's id, here 0, are not for text.
    Case(
        "too long for RoBERTa",
        "--model_name_or_path roberta --max_seq_length 66",
        "--max_seq_length 66",
        "the model's 65 positions: lower it",
    ),
    # Output
    Case("output_dir a file", "--output_dir words.txt", "--output_dir words.txt", "give a folder of your own"),
    Case("output_dir below a file", "--output_dir words.txt/out", "--output_dir words.txt/out", "give a folder"),
    Case("output_dir the model", "--output_dir ./bert", "bert is the model to start from", "give another folder"),
    Case("output_dir taken", "--output_dir taken", "taken already contains a model", "give another folder"),
    Case("README in output_dir", "--output_dir documented", "documented contains a README.md", "give another folder"),
    Case("patience without evaluations", "--early_stopping_patience 2", "--early_stopping_patience", "--eval_strategy"),
    Case("no patience", "--early_stopping_patience 0 --do_eval --eval_strategy epoch", "patience 0", "less than 1"),
    Case("threshold alone", "--early_stopping_threshold 0.1", "--early_stopping_threshold", "patience N: add it"),
    Case(
        "negative threshold",
        "--early_stopping_patience 2 --early_stopping_threshold -1 --do_eval --eval_strategy epoch",
        "--early_stopping_threshold -1.0 is negative",
        "give 0 or more",
    ),
    Case("no such checkpoint", "--resume_from_checkpoint nowhere", "--resume_from_checkpoint nowhere", "checkpoint-"),
    Case("no checkpoint yet", "--resume_from_checkpoint True", "--resume_from_checkpoint", "drop the flag"),
]

TEXT = "--train_file words.txt --do_train"
ALONE = [
    # Recipes
    Case("recipe missing", "nowhere.yaml", "recipe nowhere.yaml does not exist", "give the path of a file"),
    Case("recipe of wrong suffix", "recipe.txt", "recipe.txt is not a recipe", "a .yaml, .yml or .json file"),
    Case("recipe key", "unknown.yaml", "unknown.yaml: unknown setting 'lerning_rate'", "did you mean learning_rate?"),
    Case("recipe no mapping", "list.yaml", "list.yaml is not a mapping", "plain `flag: value` lines"),
    Case("recipe with Python", "python.yaml", "python.yaml, line 2", "plain `flag: value` lines"),
    Case("recipe no YAML", "syntax.yaml", "syntax.yaml, line 3", "plain `flag: value` lines"),
    Case("recipe no JSON", "syntax.json", "syntax.json, line 2", "plain `flag: value` lines"),
    Case("recipe without number", "number.yaml", "number.yaml: --learning_rate", "invalid float value: 'fast'"),
    Case("recipe with null", "null.yaml", "null.yaml: learning_rate is empty", "give it a value, or remove the line"),
    # Nothing to do
    Case("no model", TEXT, "no model", "--model_name_or_path PATH to adapt one, or --model_type bert"),
    Case("no task", "--model_name_or_path bert", "nothing to do", "add --do_train, --do_eval or --do_predict"),
    Case("no training text", "--model_name_or_path bert --do_train", "--do_train needs text", "--train_file FILE"),
    Case("no held-out text", "--model_name_or_path bert --do_eval", "--do_eval needs text", "--validation_file FILE"),
    # From scratch
    Case("type unknown", f"{TEXT} --model_type brt", "--model_type brt", "did you mean bert?"),
    Case("type without masks", f"{TEXT} --model_type gpt2", "gpt2 has no masked-language", "an encoder such as bert"),
    Case("no tokenizer", f"{TEXT} --model_type albert", "a new albert needs", "--tokenizer_name PATH"),
    Case("few words", f"{TEXT} --model_type bert --vocab_size 10", "--vocab_size 10 is too small", "at least 100"),
    Case(
        "words too long for WordPiece",
        "--train_file letters.txt --do_train --model_type bert --vocab_size 200",
        "letters.txt: 100.0% of the tokens are [UNK]",
        "longer than 100 characters",
    ),
    Case("lower case", f"{TEXT} --model_type roberta --do_lower_case", "--do_lower_case is for WordPiece", "drop it"),
    *(
        Case(f"override {override}", f"{TEXT} --model_type bert --config_overrides {override}", culprit, cure)
        for override, culprit, cure in [
            ("hiden_size=32", "bert has no setting 'hiden_size'", "did you mean hidden_size?"),
            ("hidden_size=big", "--config_overrides hidden_size=big", "write name=value"),
            ("hidden_size", "--config_overrides hidden_size", "write name=value"),
            ("hidden_size=32,num_attention_heads=5", "hidden size (32) is not a multiple", "check --config_overrides"),
            ("hidden_act=gellu", "gellu", "check --config_overrides"),
        ]
    ),
    # Data sets
    *(
        Case(f"data set {name}", f"--model_name_or_path bert --do_train {argv}", culprit, cure)
        for name, argv, culprit, cure in [
            ("missing", "--dataset_name nowhere", "--dataset_name nowhere cannot be loaded", "check the name"),
            ("of two columns", "--dataset_name hub", "hub (train)", "--text_column NAME (columns: title, author)"),
            ("not split", "--dataset_name hub --streaming --max_steps 1 --do_eval", "no validation", "drop --do_eval"),
        ]
    ),
]

# For pairs, with either script.
PAIRED = "--model_name_or_path both --train_file documents.txt --do_train "
PAIRS = [
    Case(
        "stream of one document",
        "--train_file one.txt --streaming --max_steps 1",
        "one.txt: fewer than two documents have text",
        "--pair_objective sop",
    ),
    Case(
        "stream of sentences, not documents",
        "--train_file sentences.txt --sentence_per_line --streaming --max_steps 1",
        "sentences.txt: no document has two sentences",
        "drop --sentence_per_line",
    ),
    Case("none random", "--nsp_probability 0", "--nsp_probability 0.0", "above 0 and below 1"),
    Case("all random", "--nsp_probability 1", "--nsp_probability 1.0", "above 0 and below 1"),
    Case("shorter than short", "--short_seq_probability -0.1", "--short_seq_probability -0.1", "between 0 and 1"),
    Case("no such strategy", "--pair_strategy words", "invalid choice: 'words'", "'sentence'"),
    Case("no such objective", "--pair_objective mlm", "invalid choice: 'mlm'", "'sop'"),
    Case("blocks of pairs", "--line_by_line", "unknown argument --line_by_line", "--help lists the flags"),
    Case("unknown script", "--train_file cuneiform.txt", "cuneiform.txt: 100.0% of the tokens", "--tokenizer_name"),
    # NVIDIA/DeepLearningExamples#421: no random sentence comes from A's own document.
    Case("one document", "--train_file one.txt", "one.txt: fewer than two documents have text", "--pair_objective sop"),
    Case(
        "sentences, not documents",
        "--train_file sentences.txt --sentence_per_line",
        "sentences.txt: no document has two sentences",
        "drop --sentence_per_line",
    ),
    Case(
        "too few to hold out",
        "--do_eval --train_file documents.txt",
        "of 3 documents leaves 1 to train on",
        "give --validation_file",
    ),
    Case(
        "one type", "--model_name_or_path one_type", "type_vocab_size is 1, but sentence pairs need 2", "use run_mlm.py"
    ),
    Case("no head for pairs", "--model_name_or_path roberta", "roberta has no next-sentence head", "or run_mlm.py"),
    Case("too long for pairs", "--max_seq_length 67", "--max_seq_length 67", "the model's 66 positions: lower it"),
    Case("best by perplexity", "--metric_for_best_model perplexity", "--metric_for_best_model perplexity", "loss, "),
]

# For run_clm.py alone.
CAUSAL = [
    Case(
        "encoder without a causal class", f"{TEXT} --model_type distilbert", "distilbert has no causal-language", "bert"
    ),
    Case("model that is not causal", f"{TEXT} --model_type xlnet", "xlnet has no causal-language", "such as gpt2"),
    Case(
        "no token between documents",
        f"{TEXT} --model_type gpt2 --tokenizer_name no_special",
        "no end-of-text token",
        "set eos_token in its tokenizer_config",
    ),
    Case("lower case", f"{TEXT} --model_type gpt2 --do_lower_case", "--do_lower_case", "drop it"),
    Case("blocks truncated", f"{RIGHT} --truncate_long_lines", "--truncate_long_lines", "--line_by_line"),
    Case("blocks too long", f"{RIGHT} --block_size 1000", "--max_seq_length 1000", "lower it"),
    Case("masks", f"{RIGHT} --mlm_probability 0.3", "unknown argument --mlm_probability", "--help lists the flags"),
]

# For run_nsp.py alone; it predicts without training.
JUDGED = "--model_name_or_path both --do_predict "
PREDICTIONS = [
    Case("no pairs given", "", "--do_predict needs a file", "--test_file FILE"),
    Case("pairs missing", "--test_file nowhere.csv", "--test_file: nowhere.csv not found", "check the path"),
    Case("pairs as text", "--test_file pairs.txt", "--test_file pairs.txt", "give a table"),
    Case("surrogate", "--test_file half_pair.jsonl", "half_pair.jsonl, line 1 contains an unpaired", "as UTF-8"),
    Case("no second text", "--test_file one_column.csv", "no column sentence_b", "columns: sentence_a, label"),
    Case("empty second text", "--test_file no_text.csv", "no_text.csv has no pairs", "every row lacks a text"),
    Case("number for a text", "--test_file number.jsonl", "line 1: sentence_b is not text", "each pair needs two"),
    Case("label of 2", "--test_file three.csv", "label '2' is neither 0", "leave unknown labels empty"),
    Case("label that may mean next", "--test_file boolean.jsonl", "boolean.jsonl, line 1: label True", "leave unknown"),
    Case("no pairs there", "--test_file no_pairs.csv", "no_pairs.csv has no pairs", "it is empty"),
]

# For run_mlm.py alone; it predicts without training.
FILLED = "--model_name_or_path bert --do_predict "
FILLINGS = [
    Case("no lines given", "", "--do_predict needs a file", "--test_file FILE"),
    Case("lines missing", "--test_file nowhere.txt", "--test_file: nowhere.txt not found", "check the path"),
    Case("no line there", "--test_file blank.txt", "--test_file blank.txt has no text", "give texts with [MASK]"),
    Case("nothing hidden", "--test_file unhidden.txt", "unhidden.txt, line 3: no [MASK]", "for the hidden word"),
    Case(
        "no text column",
        "--test_file unhidden.csv",
        "unhidden.csv: cannot determine which column",
        "give --text_column NAME",
    ),
    Case(
        "nothing hidden in a table",
        "--test_file unhidden.csv --text_column body",
        "unhidden.csv, line 3: no [MASK]",
        "for the hidden word",
    ),
    Case(
        "nothing told", "--test_file hidden.txt --top_k 0", "--top_k 0 is less than 1", "the number of predicted tokens"
    ),
    Case("more than all", "--test_file hidden.txt --top_k 501", "--top_k 501 is more than the 500 tokens", "lower it"),
    Case(
        "lines for nothing",
        "--test_file hidden.txt --do_predict False --do_eval",
        "--test_file needs --do_predict",
        "drop",
    ),
]

# Only the Trainer detects these.
LATE = [
    Case("optimizer missing", "--optim galore_adamw", "galore_torch", "pip install"),
    Case("hardly masked", "--mlm_probability 1e-9 --max_steps 2", "had a token to predict", "raise --mlm_probability"),
    Case(
        "negative rate",
        "--max_steps 4 --lr_scheduler_type polynomial --lr_scheduler_kwargs '{\"lr_end\":-1}'",
        "the learning rate would be",
        "change the arguments",
    ),
    Case("best by nothing", "--do_eval --save_strategy best", "metric_for_best_model", "save_strategy"),
    Case("Hub out of reach", "--push_to_hub --max_steps 1", "--push_to_hub", "Hub"),
]


def parametrize(cases):
    return pytest.mark.parametrize(
        ("argv", "culprit", "cure"), [pytest.param(*case[1:], id=case.name) for case in cases]
    )


@pytest.fixture(scope="module")
def workplace(checkpoint, pair_checkpoint, tmp_path_factory):
    """A folder of FILES, a BERT, a model without its tokenizer, a RoBERTa, a GPT-2, an ESM with a slow tokenizer, two
    BERTs for pairs, one of them with a single type of tokens, and four tokenizers that misfit."""
    folder = tmp_path_factory.mktemp("workplace")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    for family in ("bert", "roberta"):
        shutil.copytree(checkpoint(family), folder / family)
    shutil.copytree(pair_checkpoint("bert"), folder / "both")
    shutil.copytree(pair_checkpoint("bert"), folder / "one_type")
    BertConfig.from_pretrained(folder / "both", type_vocab_size=1).save_pretrained(folder / "one_type")
    AutoConfig.from_pretrained(folder / "bert").save_pretrained(folder / "alone")
    GPT2Config(n_layer=1, n_embd=8, n_head=1).save_pretrained(folder / "gpt2")
    (folder / "vocab.txt").write_text("<cls>\n<pad>\n<eos>\n<unk>\nA\nC\nD\n<mask>")
    EsmTokenizer(folder / "vocab.txt").save_pretrained(folder / "esm")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = EsmConfig(vocab_size=8, pad_token_id=1, mask_token_id=7, **sizes)
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder / "esm")
    mask, pad = {"mask_token": "[MASK]"}, {"pad_token": "[PAD]"}
    for name, size, special in (
        ("no_mask", 9, pad),
        ("no_pad", 9, mask),
        ("no_special", 9, mask | pad),
        ("large", 1000, mask | pad),
    ):
        vocabulary = ["[UNK]", "[PAD]", "[MASK]", *(f"word{number}" for number in range(3, size))]
        backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(vocabulary)}, "[UNK]"))
        PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", **special).save_pretrained(folder / name)
    return folder


@pytest.fixture
def error_of(workplace, capsys, monkeypatch, tmp_path):
    """``error_of(argv)`` runs a script in the workplace and gives its error, having checked its form."""
    monkeypatch.chdir(workplace)
    monkeypatch.setitem(sys.modules, "wandb", None)  # not installed

    def run(argv: str, script=run_mlm) -> str:
        output = [] if "--output_dir" in argv else ["--output_dir", tmp_path / "out"]
        code, _, error = driver(script.main, capsys)(*shlex.split(argv), *output)
        assert code == 2, error
        assert error.startswith("error: ")
        assert error.endswith("\n")
        assert error.count("\n") == 1, error
        assert "Traceback" not in error
        return error

    return run


@parametrize([case._replace(argv=RIGHT + case.argv) for case in MISTAKES] + ALONE)
def test_mlm_user_error_is_one_line_before_a_model_is_loaded(argv, culprit, cure, error_of, monkeypatch):
    """Numbers 19 and 20 of the mistakes are among them."""
    monkeypatch.setattr("cloze.training.run.make_model", lambda *_: pytest.fail("the model is loaded"))
    error = error_of(argv)
    assert culprit in error
    assert cure in error


@pytest.mark.parametrize("script", [run_nsp, run_pretraining], ids=lambda script: script.__name__)
@parametrize([case._replace(argv=PAIRED + case.argv) for case in PAIRS])
def test_pair_user_error_is_one_line_before_a_model_is_loaded(argv, culprit, cure, script, error_of, monkeypatch):
    """Numbers 4 and 20 of the mistakes are among them."""
    monkeypatch.setattr("cloze.training.run.make_model", lambda *_: pytest.fail("the model is loaded"))
    error = error_of(argv, script)
    assert culprit in error
    assert cure in error


@parametrize(CAUSAL)
def test_causal_user_error_is_one_line_before_a_model_is_loaded(argv, culprit, cure, error_of, monkeypatch):
    monkeypatch.setattr("cloze.training.run.make_model", lambda *_: pytest.fail("the model is loaded"))
    error = error_of(argv, run_clm)
    assert culprit in error
    assert cure in error


@pytest.mark.parametrize("workers", [0, 1])
def test_stream_user_error_is_one_line(workers, error_of, tmp_path):
    row = json.dumps({"text": "The moon is far. " * 30})
    (tmp_path / "long.jsonl").write_text(f"{row}\n" * 2000 + "bad\n")
    error = error_of(
        f"{RIGHT} --train_file {tmp_path}/long.jsonl --streaming --max_steps 1 --dataloader_num_workers {workers}"
    )
    assert error.startswith(f"error: {tmp_path}/long.jsonl, line 2001: not JSON")
    assert error.count("\n") == 1


@parametrize([case._replace(argv=JUDGED + case.argv) for case in PREDICTIONS])
def test_pair_prediction_user_error_is_one_line(argv, culprit, cure, error_of, monkeypatch):
    monkeypatch.setattr("cloze.training.run.make_model", lambda *_: pytest.fail("the model is loaded"))
    error = error_of(argv, run_nsp)
    assert culprit in error
    assert cure in error


@parametrize([case._replace(argv=FILLED + case.argv) for case in FILLINGS])
def test_fill_mask_user_error_is_one_line(argv, culprit, cure, error_of, monkeypatch):
    monkeypatch.setattr("cloze.training.run.make_model", lambda *_: pytest.fail("the model is loaded"))
    error = error_of(argv)
    assert culprit in error
    assert cure in error


def test_missing_nanotoken_is_one_line_with_remedy(error_of, monkeypatch):
    monkeypatch.setitem(sys.modules, "nanotoken", None)
    monkeypatch.setattr("cloze.training.run.make_model", lambda *_: pytest.fail("the model is loaded"))
    error = error_of(f"{RIGHT} --tokenizer_backend nanotoken")
    assert error.startswith("error: --tokenizer_backend nanotoken: ")
    assert "pip install nanotoken, or drop the flag" in error


def test_test_file_without_do_predict_is_an_error(error_of):
    error = error_of(f"{PAIRED} --test_file pairs.csv", run_nsp)
    assert error == "error: --test_file needs --do_predict: add it, or drop the file\n"


@parametrize([case._replace(argv=RIGHT + case.argv) for case in LATE])
def test_trainer_argument_error_is_one_line(argv, culprit, cure, error_of):
    error = error_of(argv)
    assert culprit in error
    assert cure in error


def test_hub_that_cannot_be_connected_to_is_one_line(error_of, monkeypatch):
    """Unlike with HF_HUB_OFFLINE, the error comes from huggingface_hub's HTTP client."""

    def unreachable(trainer, *args, **kwargs):
        raise HTTPError("Name or service not known")

    monkeypatch.setattr(PretrainingTrainer, "init_hf_repo", unreachable)
    error = error_of(f"{RIGHT} --push_to_hub --max_steps 1")
    assert "--push_to_hub: cannot use the Hub: Name or service not known" in error


@pytest.mark.parametrize("damage", [Path.unlink, lambda weights: weights.write_bytes(b"cut")], ids=["missing", "cut"])
def test_missing_or_broken_weights_are_one_line(damage, error_of, workplace, tmp_path):
    shutil.copytree(workplace / "bert", tmp_path / "broken")
    damage(tmp_path / "broken" / "model.safetensors")
    error = error_of(f"{RIGHT} --model_name_or_path {tmp_path}/broken")
    assert f"--model_name_or_path {tmp_path}/broken: the weights cannot be loaded" in error


@pytest.mark.parametrize("flag", ["output_dir", "cache_dir", "model_name_or_path", "tokenizer_name", "run_name"])
def test_non_utf8_file_name_error_is_one_line(flag, error_of, tmp_path):
    name = os.fsdecode(bytes(tmp_path) + b"/n\xff")
    assert (
        error_of(f"{RIGHT} --{flag} {name}")
        == f"error: --{flag} {name!a} is not UTF-8: rename the file, folder or model\n"
    )
    assert not os.path.exists(name)


def test_recipe_executes_nothing(error_of, workplace):
    error_of("python.yaml")
    assert not (workplace / "executed").exists()


@pytest.mark.parametrize(
    "argv",
    [
        "--train_file nowhere.txt",
        "--train_file nowhere.txt --overwrite_output_dir",
        "--max_seq_length 999 --overwrite_output_dir",
        "--model_name_or_path nowhere --overwrite_output_dir",
        "--model_name_or_path {out}/checkpoint-5 --overwrite_output_dir",
        "--overwrite_output_dir --save_total_limit 1",  # fails for the disk
    ],
)
def test_failed_run_leaves_output_dir_as_it_was(argv, error_of, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "total used free")(10, 10, 0))
    out = tmp_path / "out"
    files = ["config.json", "model.safetensors", "recipe.yaml", "README.md", "notes.txt", "train_results.json"]
    files += [f"checkpoint-5/{name}" for name in ("trainer_state.json", "config.json", "model.safetensors")]
    (out / "checkpoint-5").mkdir(parents=True)
    for name in files:
        (out / name).write_text(f"precious {name}")
    error_of(RIGHT + argv.format(out=out))
    (out / RUN_LOCK).unlink()
    assert {str(path.relative_to(out)): path.read_text() for path in out.rglob("*") if path.is_file()} == {
        name: f"precious {name}" for name in files
    }


def test_real_process_exits_with_2_and_one_line(workplace):
    argv = [sys.executable, Path(run_mlm.__file__), *shlex.split(RIGHT), "--train_file", "latin1.txt"]
    process = subprocess.run(argv, cwd=workplace, capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stderr == (
        "error: latin1.txt, line 3: byte 0xe9 is not UTF-8: convert the file, for example with iconv -t UTF-8\n"
    )
