"""Write the model card: the model's README.md, with metadata for the Hub."""

import importlib.metadata
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel

from cloze.models.loading import code_sources
from cloze.objectives.metrics import BITS
from cloze.system.storage import CURVES
from cloze.training.checkpoints import replacing
from cloze.training.context import RunContext


def write_model_card(
    path: Path,
    context: RunContext,
    model: PreTrainedModel,
    lines: dict[str, str],
    samples: dict[str, list[str]],
    evaluated: dict[str, tuple[str, float]],
) -> None:
    """Write the model card; it shows the curves if their file is in the same folder.

    Args:
        path: of README.md.
        context: settings of the run.
        model: the trained model.
        lines: the summary of the run, text by title.
        samples: predictions of the model, by title.
        evaluated: title and value of each metric of the last evaluation, by its name.

    Raises:
        OSError: if the file cannot be written.
    """
    task, model_args = context.task, context.model_args
    data_args, training_args = context.data_args, context.training_args
    metadata = ModelCardData(library_name="transformers", tags=[model.config.model_type])
    settings = task.describe_settings(data_args)
    metadata.pipeline_tag = task.pipeline_tag
    metadata.base_model, dataset = map(_hub_name, (model_args.model_name_or_path, data_args.dataset_name))
    metadata.datasets = dataset
    name = Path(training_args.output_dir).resolve().name
    if evaluated:
        _add_evaluation(metadata, evaluated, name, dataset)
    origin = model_args.model_name_or_path or f"a new {model.config.model_type}"
    if training_args.ema_decay is not None:
        settings.append(f"The weights are averages over the optimizer steps (decay {training_args.ema_decay}).")
    if model_args.trust_remote_code:
        sources = " and ".join(code_sources(model_args))
        settings.append(f"Code from {sources} was allowed to run (trust_remote_code).")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("transformers", "torch", "datasets"))
    rows = "\n".join(
        f"| {title} | {text.replace('|', '&#124;')} |" for title, text in lines.items() if title != "saved in"
    )
    curves = f"\n![Training curves]({CURVES})\n" if (path.parent / CURVES).exists() else ""
    examples = "\n\n".join(f"## {title}\n\n" + "\n\n".join(texts) for title, texts in samples.items())
    text = f"""---
{metadata.to_yaml()}
---

# {name}

A {task.title}, trained from {origin}.

    {task.usage(training_args.output_dir, context.tokenizer)}

| | |
|---|---|
{rows}
{curves}
{examples}

## Settings

All settings are in recipe.yaml. {" ".join(settings)}
Learning rate {training_args.learning_rate}, {training_args.per_device_train_batch_size} examples per device, \
{training_args.gradient_accumulation_steps} batches per step, seed {training_args.seed}. {versions}.
"""
    with replacing(path) as file:
        file.write(str(ModelCard(text)))


def _hub_name(name: str | None) -> str | None:
    """Return the name of a model or data set on the Hub, None for a path."""
    return None if name is None or Path(name).exists() else name


def _add_evaluation(
    metadata: ModelCardData, evaluated: dict[str, tuple[str, float]], name: str, dataset: str | None
) -> None:
    # The Hub knows metrics without our prefixes: perplexity for mlm_perplexity, f1 for macro_f1.
    kinds = {metric: next(filter(metric.endswith, BITS), metric.rpartition("_")[2]) for metric in evaluated}
    metadata.model_name, metadata.metrics = name, [kind for kind in dict.fromkeys(kinds.values()) if kind != "loss"]
    metadata.eval_results = [
        EvalResult(
            task_type=metadata.pipeline_tag or "next-sentence-prediction",
            dataset_type=dataset or "text",
            dataset_name=dataset or "held-out text",
            metric_type=kinds[metric],
            metric_name=title,
            metric_value=float(value),
        )
        for metric, (title, value) in evaluated.items()
    ]
