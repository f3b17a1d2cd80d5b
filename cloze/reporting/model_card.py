"""The model card: README.md of the model, with the Hub's metadata in front."""

import importlib.metadata
from pathlib import Path

import yaml
from transformers import PreTrainedModel

from cloze.config.arguments import ModelArguments, TrainingArguments
from cloze.config.data_arguments import DataArguments
from cloze.models.loading import code_sources
from cloze.objectives.tasks import Task
from cloze.training.checkpoints import replacing
from cloze.training.output_dir import CURVES


def write_model_card(
    path: Path,
    task: Task,
    lines: dict[str, str],
    shown: dict[str, list[str]],
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: TrainingArguments,
    model: PreTrainedModel,
) -> None:
    """Write it, with the curves if they are there."""
    metadata = {"library_name": "transformers", "tags": [model.config.model_type]}
    how = []
    if task.masks or task.classifies:
        tag = metadata["pipeline_tag"] = "fill-mask" if task.masks else "text-classification"
        usage = f'from transformers import pipeline\n    pipeline("{tag}", model="{training_args.output_dir}")'
    else:
        usage = (
            "from transformers import AutoModelForNextSentencePrediction\n"
            f'    AutoModelForNextSentencePrediction.from_pretrained("{training_args.output_dir}")'
        )
    if task.masks:
        how.append(
            f"{data_args.mlm_probability:.0%} of the tokens were predicted in training, "
            f"{data_args.eval_mlm_probability:.0%} in evaluations;"
        )
    if task.pairs:
        kind = "swapped" if data_args.pair_objective == "sop" else "random"
        how.append(f"{data_args.nsp_probability:.0%} of the pairs were {kind};")
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
    examples = "\n\n".join(f"## {title}\n\n" + "\n\n".join(texts) for title, texts in shown.items())
    text = f"""---
{yaml.safe_dump(metadata, sort_keys=False)}---

# {Path(training_args.output_dir).resolve().name}

A {task.title}, trained from {origin}.

    {usage}

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
