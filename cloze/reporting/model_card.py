"""Write the model card: README.md of the model, with the Hub's metadata in front."""

import importlib.metadata
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel

from cloze.models.loading import code_sources
from cloze.system.storage import CURVES
from cloze.training.checkpoints import replacing
from cloze.training.context import RunContext


def write_model_card(
    path: Path,
    context: RunContext,
    model: PreTrainedModel,
    lines: dict[str, str],
    shown: dict[str, list[str]],
    evaluated: dict[str, tuple[str, float]],
) -> None:
    """Write README.md, with the curves if they are beside it. OSError if it cannot be written.

    Args:
        lines: the summary of the run, name and text.
        shown: titles and examples of what the model predicts.
        evaluated: title and value of the metrics of the last evaluation, by their names.
    """
    task, model_args = context.task, context.model_args
    data_args, training_args = context.data_args, context.training_args
    metadata = ModelCardData(library_name="transformers", tags=[model.config.model_type])
    how = []
    if task.masks or task.classifies:
        tag = metadata.pipeline_tag = "fill-mask" if task.masks else "text-classification"
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
    metadata.base_model, metadata.datasets = map(_hub_name, (model_args.model_name_or_path, data_args.dataset_name))
    name = Path(training_args.output_dir).resolve().name
    if evaluated:
        _add_evaluation(metadata, evaluated, name)
    origin = model_args.model_name_or_path or f"a new {model.config.model_type}"
    if model_args.trust_remote_code:
        how.append(f"code that came with {' and with '.join(code_sources(model_args))} could run (trust_remote_code);")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("transformers", "torch", "datasets"))
    rows = "\n".join(
        f"| {title} | {text.replace('|', '&#124;')} |" for title, text in lines.items() if title != "saved in"
    )
    curves = f"\n![Training curves]({CURVES})\n" if (path.parent / CURVES).exists() else ""
    examples = "\n\n".join(f"## {title}\n\n" + "\n\n".join(texts) for title, texts in shown.items())
    text = f"""---
{metadata.to_yaml()}
---

# {name}

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
        file.write(str(ModelCard(text)))


def _hub_name(name: str | None) -> str | None:
    """Return the name of a model or data set if it is the Hub's, not a path."""
    return None if name is None or Path(name).exists() else name


def _add_evaluation(metadata: ModelCardData, evaluated: dict[str, tuple[str, float]], name: str) -> None:
    # The Hub's names are of metrics, whatever objective they are of: mlm_perplexity, macro_f1.
    kinds = {metric: metric.rpartition("_")[2] for metric in evaluated}
    metadata.model_name, metadata.metrics = name, [kind for kind in dict.fromkeys(kinds.values()) if kind != "loss"]
    metadata.eval_results = [
        EvalResult(
            task_type=metadata.pipeline_tag or "next-sentence-prediction",
            dataset_type=metadata.datasets or "text",
            dataset_name=metadata.datasets or "held-out text",
            metric_type=kinds[metric],
            metric_name=title,
            metric_value=float(value),
        )
        for metric, (title, value) in evaluated.items()
    ]
