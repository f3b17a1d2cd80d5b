"""Train with losses averaged over targets, evaluate in examples, and measure throughput."""

import math
import time

import numpy as np
import torch
from huggingface_hub.errors import HTTPError
from transformers import EvalPrediction, PreTrainedTokenizerBase

from cloze.config.arguments import TrainingArguments
from cloze.config.optimizers import MUON, has_own_groups
from cloze.data.collators import IGNORED, MEASURES
from cloze.errors import UserError
from cloze.models.flops import Flops, peak_flops
from cloze.objectives.metrics import Objective, Scores, check_finite, finite, prefix_of
from cloze.training.baseline import write_baseline
from cloze.training.parameter_groups import make_groups, muon_and_settings
from cloze.training.resume import ResumableTrainer
from cloze.training.saving import replaced
from cloze.training.throughput import ThroughputMeter


class PretrainingTrainer(ResumableTrainer):
    """Train with losses averaged over the targets of an optimizer step, and measure throughput.

    The loss is the sum over ``objectives``; each is the sum of its cross-entropies divided by their number in the whole
    optimizer step. Models of transformers return means over each micro-batch, which the Trainer mistakes for such sums
    and does not divide by the number of micro-batches (huggingface/transformers#47688).

    Args:
        args: the training arguments.
        objectives: the objectives by the prefix of their metrics: ``{"mlm_": MASKED_TOKENS, "nsp_": SENTENCE_PAIRS}``.
        flops: FLOPs of the model's forward, for the MFU.
        **kwargs: further arguments of the Trainer.

    Attributes:
        scores: the scores of the last evaluation, by held-out set, objective prefix and name, [examples] each.
    """

    # compute_loss normalizes over the whole step: the Trainer must not divide by the number of micro-batches.
    loss_is_scaled_for_ga = True
    processing_class: PreTrainedTokenizerBase

    def __init__(self, args: TrainingArguments, objectives: dict[str, Objective], flops: Flops | None = None, **kwargs):
        try:
            super().__init__(args=args, compute_metrics=self.summarise, **kwargs)
            self.get_optimizer_cls_and_kwargs(self.args, self.model)
        except (ValueError, TypeError, ImportError, OSError, HTTPError) as error:
            # Only the Trainer checks these settings: packages, access to the Hub.
            hub = "--push_to_hub: cannot use the Hub: " if args.push_to_hub else ""
            raise UserError(f"{hub}{error}") from None
        if not args.do_train and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise UserError("FSDP and DeepSpeed need --do_train: turn them off to evaluate or predict")
        self.objectives = objectives
        # The name of loss_is_scaled_for_ga up to transformers 5.17.
        self.model_accepts_loss_kwargs = True
        dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else self.model.dtype
        peak = peak_flops(args.device, dtype) if args.do_train and flops is not None else math.nan
        self.meter = ThroughputMeter(flops, peak, args.device)
        # Loss, count and hits of each objective since the last log.
        self.running = torch.zeros(len(objectives), 3, device=self.args.device)
        # Number of examples of each held-out set during an evaluation. All that are predicted are one set.
        self.set_sizes: dict[str, int | None] = {"": None}

    def score(self, model, inputs, label_smoothing: float = 0.0) -> dict[str, Scores]:
        """Return the scores of the examples in a batch, by objective prefix."""
        not_for_model = {*MEASURES, *(objective.labels for objective in self.objectives.values())}
        outputs = model(**{name: values for name, values in inputs.items() if name not in not_for_model})
        return {
            prefix: objective.score(objective.logits_of(outputs), inputs, label_smoothing)
            for prefix, objective in self.objectives.items()
        }

    def count_targets(self, batches: list[dict[str, torch.Tensor]]) -> torch.Tensor:
        """Return the number of targets of each objective in the micro-batches of an optimizer step, [objectives]."""
        names = [objective.labels for objective in self.objectives.values()]
        counts = [torch.stack([(batch[name] != IGNORED).sum() for name in names]) for batch in batches]
        num_items = sum(counts, torch.zeros(len(names), dtype=torch.int64, device=self.args.device))
        # Counted over all processes: compute_loss then undoes the averaging of gradients over processes.
        return self.accelerator.reduce(num_items) if self.args.average_tokens_across_devices else num_items

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the loss of a micro-batch: its part of the optimizer step's; add it to the sums for the next log."""
        self.meter.add(inputs)
        scores = self.score(model, inputs, self.args.label_smoothing_factor).values()
        losses = torch.stack([each["loss"].sum() for each in scores]) / num_items_in_batch.clamp(min=1)
        if self.args.average_tokens_across_devices:
            losses = losses * self.accelerator.num_processes
        counted = torch.stack([torch.stack([each["count"].sum(), each["hits"].sum()]) for each in scores]).detach()
        self.running += torch.cat([losses.detach()[:, None], counted], dim=1)
        self.stop_callback.record_loss(losses.sum(), self.state.global_step + 1)
        return losses.sum()

    def log(self, logs, *args, **kwargs):
        """Add each objective's loss and accuracy, and the throughput."""
        if "loss" in logs:
            logs["loss"] = self.drain_loss()
            logs |= self.meter.since_last(self.accelerator, time.monotonic() - self.started)
            running = self.accelerator.reduce(self.running, reduction="mean").cpu().numpy()
            shares = running[:, 0] / max(running[:, 0].sum(), 1e-9)
            for prefix, share, (_, count, hits) in zip(self.objectives, shares, running, strict=True):
                if prefix:
                    logs[f"{prefix}loss"] = float(share * logs["loss"])
                logs[f"{prefix}accuracy"] = float(hits / max(count, 1))
            self.running.zero_()
        if "train_runtime" in logs:
            # The Trainer assumes full batches, and steps that --max_train_hours does not reach.
            examples, *_, labels = self.meter.totals(self.accelerator)
            predicts_tokens = any(objective.labels == "labels" for objective in self.objectives.values())
            # A resumed run may have had them before, and ends perhaps with a single batch of few tokens.
            if predicts_tokens and examples and not labels and not self.progress.step:
                raise UserError(
                    f"none of the {examples:,} training examples had a token to predict: raise --mlm_probability"
                )
            logs["train_samples_per_second"] = round(examples / logs["train_runtime"], 3)
        super().log(logs, *args, **kwargs)
        # With --fp16, the gradient norm is infinite if the loss scale is too large.
        self.state.log_history[-1] = finite(self.state.log_history[-1])

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Return scores as logits, and no loss: the Trainer would average it over batches (transformers#39241).

        The scores of examples that have documents have them, too.
        """
        with torch.no_grad(), self.compute_loss_context_manager():
            scores = self.score(model, inputs)
        if "documents" in inputs:
            for each in scores.values():
                each["documents"] = inputs["documents"]
        # Without labels, the Trainer does not compute metrics.
        return None, scores, torch.zeros_like(next(iter(scores.values()))["loss"])

    def summarise(self, prediction: EvalPrediction) -> dict[str, float]:
        """Return the metrics of each held-out set under its name; the first set's also without a name."""
        metrics: dict[str, float] = {}
        self.scores, begin = {}, 0
        for name, size in self.set_sizes.items():
            part = slice(begin, None if size is None else begin + size)
            begin += size or 0
            self.scores[name] = {
                prefix: {name: np.asarray(values[part], dtype=np.float64) for name, values in scores.items()}
                # The Trainer passes on what prediction_step returns as logits, a dict.
                for prefix, scores in prediction.predictions.items()  # type: ignore[union-attr]
            }
            own = self.summarise_set(self.scores[name])
            metrics = metrics or dict(own)
            metrics |= {f"{name}_{metric}": value for metric, value in own.items() if name}
        return metrics

    def summarise_set(self, set_scores: dict[str, dict[str, np.ndarray]]) -> dict[str, float]:
        """Return the metrics of each objective, and the sum of their losses; none if an objective has no targets."""
        metrics = {"loss": 0.0}
        for prefix, objective in self.objectives.items():
            scores = set_scores[prefix]
            if not scores["count"].any():
                return {}
            for values in scores.values():
                check_finite(values)
            own = objective.summarise(scores)
            metrics["loss"] += own.pop("loss") if not prefix else own["loss"]
            metrics |= {f"{prefix}{name}": value for name, value in own.items()}
        return metrics

    def evaluate(self, *args, **kwargs):
        """Return the metrics of the held-out sets, as ``summarise`` names them.

        Raises:
            UserError: if a set has no targets.
        """
        with replaced(self, set_sizes=self.eval_dataset.sizes):
            metrics = super().evaluate(*args, **kwargs)
        for name in self.eval_dataset.sizes:
            if f"eval_{prefix_of(name)}loss" not in metrics:
                text = f"the validation text {name}" if name else "the validation set"
                raise UserError(f"{text} has nothing to predict: give more text")
        if self.is_in_train and not self.state.global_step and self.is_world_process_zero():
            write_baseline(self.args.output_dir, self.scores, metrics["eval_loss"])
        return metrics

    @staticmethod
    def get_optimizer_cls_and_kwargs(args, model=None):
        """Return the optimizer's class and arguments: Muon, or what transformers returns."""
        if args.optim == MUON:
            return muon_and_settings(args)
        return ResumableTrainer.get_optimizer_cls_and_kwargs(args, model)

    def create_optimizer(self, model=None):
        """Create the optimizer; with FSDP, hide embeddings and head until create_scheduler."""
        if has_own_groups(self.args):
            groups = make_groups(self.model, self.get_decay_parameter_names(self.model), self.args)
            optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer_cls_and_kwargs = optimizer_class, settings | {"params": groups}
        if self.is_fsdp_enabled:
            # Between the two, accelerate shards embeddings and head apart from the other layers, and torch refuses
            # that for heads like BERT's, which share a bias. If it finds neither, they join the root module's shard.
            vars(self.model).update(get_input_embeddings=lambda: None, get_output_embeddings=lambda: None)
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps, optimizer=None):
        """Create the scheduler; with FSDP, restore what create_optimizer hid."""
        if self.is_fsdp_enabled:
            del self.model.get_input_embeddings, self.model.get_output_embeddings
        return super().create_scheduler(num_training_steps, optimizer)

    # Private: no public hook says which weights a checkpoint may lack.
    def _issue_warnings_after_load(self, load_result):
        # Tied weights are absent from the file, but not missing.
        tied = self.model.all_tied_weights_keys
        load_result.missing_keys[:] = [key for key in load_result.missing_keys if key not in tied]
        super()._issue_warnings_after_load(load_result)
