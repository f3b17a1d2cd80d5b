"""The model card: README.md of the model, with the Hub's metadata in front."""

import importlib.metadata
from pathlib import Path

import yaml
from transformers import PreTrainedModel

from cloze.config.arguments import ModelArguments, TrainingArguments
from cloze.config.data_arguments import DataArguments
from cloze.models.loading import code_sources
from cloze.objectives.task import Task
from cloze.training.checkpoints import replacing

# The figure beside it, which it shows.
CURVES = "curves.png"


def write_model_card(
    path: Path,
    task: Task,
    lines: dict[str, str],
    samples: dict[str, list[str]],
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: TrainingArguments,
    model: PreTrainedModel,
) -> None:
    """Write it, with the curves if they are there."""
    metadata = {"library_name": "transformers", "tags": [model.config.model_type]}
    how = task.describe_settings(data_args)
    if task.pipeline_tag is not None:
        metadata["pipeline_tag"] = task.pipeline_tag
    if model_args.model_name_or_path and not Path(model_args.model_name_or_path).exists():
        metadata["base_model"] = model_args.model_name_or_path
    origin = model_args.model_name_or_path or f"a new {model.config.model_type}"
    if model_args.trust_remote_code:
        how.append(f"code that came with {' and with '.join(code_sources(model_args))} could run (trust_remote_code);")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("transformers", "torch", "datasets"))
    rows = "\n".join(
        f"| {name} | {text.replace('|', '&#124;')} |" for name, text in lines.items() if name != "saved in"
    )
    curves = f"\n![Training curves]({CURVES})\n" if (path.parent / CURVES).exists() else ""
    examples = "\n\n".join(f"## {title}\n\n" + "\n\n".join(texts) for title, texts in samples.items())
    text = f"""---
{yaml.safe_dump(metadata, sort_keys=False)}---

# {Path(training_args.output_dir).resolve().name}

A {task.title}, trained from {origin}.

    {task.usage(training_args.output_dir)}

| | |
|---|---|
{rows}
{curves}
{examples}

## Settings

recipe.yaml holds them all. {" ".join(how)}
learning rate {training_args.learning_rate}, {training_args.per_device_train_batch_size} examples a device, \
{training_args.gradient_accumulation_steps} batches a step, seed {training_args.seed}. {versions}.
"""
    with replacing(path) as file:
        file.write(text)
