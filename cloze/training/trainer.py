"""The Trainer with losses and evaluations that count what there is to predict, and meters."""

import math
import time

import numpy as np
import torch
from huggingface_hub.errors import HTTPError
from transformers import EvalPrediction, PreTrainedTokenizerBase, get_scheduler

from cloze.data.collators import IGNORED
from cloze.errors import UserError
from cloze.models.flops import Flops, peak_flops
from cloze.objectives.metrics import Objective, Scores, check_finite, finite
from cloze.training.resume import ResumableTrainer
from cloze.training.throughput import ThroughputMeter


class PretrainingTrainer(ResumableTrainer):
    """Train with losses and evaluations that count what there is to predict.

    The loss is the sum over ``objectives``, each the sum of its cross-entropies divided by their number in the whole
    optimizer step. Models of transformers return means over each micro-batch instead, which the Trainer takes for this
    and does not divide by the number of micro-batches (huggingface/transformers#47688).

    Args:
        objectives: by the prefix of their metrics, as ``{"mlm_": MASKED_TOKENS, "nsp_": SENTENCE_PAIRS}``.
        flops: what the model's forward takes, for the share of the device's peak.

    Attributes:
        scores: of the set that was evaluated last, each objective's by its prefix: [examples] each, by name.
    """

    # The loss below is normalised over the whole step, so that the Trainer must not divide it by the micro-batches.
    loss_is_scaled_for_ga = True
    processing_class: PreTrainedTokenizerBase

    def __init__(self, args, objectives: dict[str, Objective], flops: Flops | None = None, **kwargs):
        try:
            super().__init__(args=args, compute_metrics=self.summarise, **kwargs)
            self.get_optimizer_cls_and_kwargs(self.args, self.model)
            check_scheduler(self.args)
        except (ValueError, TypeError, ImportError, OSError, HTTPError) as error:
            # Settings that only the Trainer can judge: a package that is missing, a Hub out of reach.
            hub = "--push_to_hub: the Hub is out of reach or refuses: " if args.push_to_hub else ""
            raise UserError(f"{hub}{error}") from None
        if not args.do_train and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise UserError("FSDP and DeepSpeed divide models that are trained: without --do_train, use neither")
        self.objectives = objectives
        # Up to transformers 5.17, it stands for loss_is_scaled_for_ga.
        self.model_accepts_loss_kwargs = True
        dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else self.model.dtype
        peak = peak_flops(args.device, dtype) if args.do_train and flops is not None else math.nan
        self.meter = ThroughputMeter(flops, peak, args.device)
        # Each objective's losses, counts and hits since the last log.
        self.running = torch.zeros(len(objectives), 3, device=self.args.device)

    def score(self, model, inputs, label_smoothing: float = 0.0) -> dict[str, Scores]:
        """Return each objective's scores of the examples in a batch, by its prefix."""
        labels = {objective.labels for objective in self.objectives.values()}
        outputs = model(**{name: values for name, values in inputs.items() if name not in labels})
        return {
            prefix: objective.score(objective.logits_of(outputs), inputs, label_smoothing)
            for prefix, objective in self.objectives.items()
        }

    def count_targets(self, batches: list[dict[str, torch.Tensor]]) -> torch.Tensor:
        """Return what each objective has to predict in the micro-batches of an optimizer step, [objectives]."""
        names = [objective.labels for objective in self.objectives.values()]
        counts = [torch.stack([(batch[name] != IGNORED).sum() for name in names]) for batch in batches]
        num_items = sum(counts, torch.zeros(len(names), dtype=torch.int64, device=self.args.device))
        # If all processes are counted, their gradients, which are then averaged, have to be multiplied by their number.
        return self.accelerator.reduce(num_items) if self.args.average_tokens_across_devices else num_items

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
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
        """Add each objective's part of the loss, its accuracy, and the meters."""
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
            # The Trainer reckons with full batches, and with steps that the time at hand does not reach.
            examples = self.meter.totals(self.accelerator)[0]
            logs["train_samples_per_second"] = round(examples / logs["train_runtime"], 3)
        super().log(logs, *args, **kwargs)
        # With --fp16, the norm of the gradient is infinite where the loss was scaled too far.
        self.state.log_history[-1] = finite(self.state.log_history[-1])

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Return scores as logits; no loss, as the Trainer would average it over batches (transformers#39241)."""
        with torch.no_grad(), self.compute_loss_context_manager():
            scores = self.score(model, inputs)
        # Without labels, the Trainer would not ask for metrics.
        return None, scores, torch.zeros_like(next(iter(scores.values()))["loss"])

    def summarise(self, prediction: EvalPrediction) -> dict[str, float]:
        """Return the metrics of a set: each objective's own, and as loss their sum; none if nothing is to predict."""
        self.scores = {
            prefix: {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()}
            for prefix, scores in prediction.predictions.items()
        }
        metrics = {"loss": 0.0}
        for prefix, objective in self.objectives.items():
            scores = self.scores[prefix]
            if not scores["count"].any():
                return {}
            for values in scores.values():
                check_finite(values)
            own = objective.summarise(scores)
            metrics["loss"] += own.pop("loss") if not prefix else own["loss"]
            metrics |= {f"{prefix}{name}": value for name, value in own.items()}
        return metrics

    def evaluate(self, *args, **kwargs):
        metrics = super().evaluate(*args, **kwargs)
        if "eval_loss" not in metrics:
            raise UserError("the validation set has nothing to predict, not one masked token: give more text")
        return metrics

    def create_optimizer(self, model=None):
        if self.is_fsdp_enabled:
            # accelerate shards embeddings and head apart from the rest, though a head as BERT's shares its bias with
            # that, which torch refuses. Where it finds neither, they are sharded with what no layer has. It does so
            # between this and create_scheduler.
            self.model.get_input_embeddings = self.model.get_output_embeddings = lambda: None
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps, optimizer=None):
        if self.is_fsdp_enabled:
            del self.model.get_input_embeddings, self.model.get_output_embeddings
        return super().create_scheduler(num_training_steps, optimizer)

    # Private: nothing public says which weights a checkpoint may lack.
    def _issue_warnings_after_load(self, load_result):
        # Tied weights are not in the file, and not missing.
        tied = self.model.all_tied_weights_keys
        load_result.missing_keys[:] = [key for key in load_result.missing_keys if key not in tied]
        super()._issue_warnings_after_load(load_result)


def check_scheduler(args) -> None:
    """Raise what the schedule would, after an hour of loading, for arguments that it does not take."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    get_scheduler(args.lr_scheduler_type, optimizer, 0, 1, scheduler_specific_kwargs=args.lr_scheduler_kwargs)
