"""The Trainer with a loss per masked token of the whole step, and the run: resume, train, evaluate, save."""

import logging
import time
from pathlib import Path

import torch
from transformers import Trainer, TrainerCallback, TrainerState, get_scheduler

from cloze import checkpoints
from cloze.arguments import UserError
from cloze.batching import EpochSampler
from cloze.metrics import masked_lm_loss, masked_lm_sums, perplexity, summarise

logger = logging.getLogger(__name__)


class LogLastStep(TrainerCallback):
    """Logs the last step, whatever the logging steps, so that a run ends with its loss."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps:
            control.should_log = True


class MaskedLMTrainer(Trainer):
    """Trainer whose loss and evaluation count masked tokens."""

    # The loss below is normalised over the whole step, so that the Trainer must not divide it by the micro-batches.
    loss_is_scaled_for_ga = True

    def __init__(self, args, **kwargs):
        try:
            super().__init__(args=args, compute_metrics=summarise, callbacks=[LogLastStep()], **kwargs)
            self.get_optimizer_cls_and_kwargs(self.args, self.model)
            check_scheduler(self.args)
        except (ValueError, TypeError, ImportError, OSError) as error:
            # Settings that only the Trainer can judge: a package that is missing, a Hub out of reach.
            hub = "--push_to_hub: the Hub is out of reach or refuses: " if args.push_to_hub else ""
            raise UserError(f"{hub}{error}") from None
        # Lets the Trainer count the labels of the whole step; up to transformers 5.17 it stands for the above, too.
        self.model_accepts_loss_kwargs = True
        # The Trainer prunes by time of change (transformers#26961), and at the end even the newest: ours is used.
        self.save_total_limit, self.args.save_total_limit = self.args.save_total_limit, None
        self.real_tokens = torch.zeros((), dtype=torch.int64, device=self.args.device)
        self.evaluation_seconds = 0.0
        self.epoch_sampler = None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        self.real_tokens += inputs["attention_mask"].sum()
        outputs = model(**inputs)
        # Under DataParallel the count comes once for each device.
        num_items = num_items_in_batch.max()
        loss = masked_lm_loss(outputs.logits, labels, num_items, self.args.label_smoothing_factor)
        if self.args.average_tokens_across_devices:
            # The count is that of all processes, whose gradients are then averaged.
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Sums instead of logits; no loss, as the Trainer would average it over batches (transformers#39241)."""
        inputs = self._prepare_inputs(inputs)
        labels = inputs.pop("labels")
        with torch.no_grad(), self.compute_loss_context_manager():
            sums, counts = masked_lm_sums(model(**inputs).logits, labels)
        return None, sums, counts

    def evaluate(self, *args, **kwargs):
        start = time.monotonic()
        metrics = super().evaluate(*args, **kwargs)
        if not metrics["eval_masked_tokens"]:
            raise UserError("not one token of the validation set is masked: it is too small, give more text")
        self.evaluation_seconds += time.monotonic() - start
        return metrics

    def _get_train_sampler(self, train_dataset=None):
        if not hasattr(self.train_dataset, "lengths"):
            return None
        batch_size = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        strategy = self.args.train_sampling_strategy
        self.epoch_sampler = EpochSampler(self.train_dataset.lengths, strategy, batch_size, self.args.order_seed)
        return self.epoch_sampler

    def _run_epoch(self, *args, **kwargs):
        # On resuming with several processes, neither the Trainer nor accelerate reaches the sampler, which lies below
        # a shard of batches below one that skips: it would stay in the first epoch.
        if self.epoch_sampler is not None:
            self.epoch_sampler.set_epoch(kwargs["epoch"])
        return super()._run_epoch(*args, **kwargs)

    def _issue_warnings_after_load(self, load_result):
        # Tied weights are not in the file, and not missing.
        tied = self.model.all_tied_weights_keys
        load_result.missing_keys[:] = [key for key in load_result.missing_keys if key not in tied]
        super()._issue_warnings_after_load(load_result)

    def _save_checkpoint(self, model, trial):
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            newest, best = self.state.global_step, self.state.best_global_step
            checkpoints.prune(self.args.output_dir, self.save_total_limit, newest, best)

    def create_model_card(self, *args, **kwargs):
        """Nothing: the run writes its own, with the metrics, and before anything is pushed."""


def check_scheduler(args) -> None:
    """Raise what the schedule would, after an hour of loading, for arguments that it does not take."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    get_scheduler(args.lr_scheduler_type, optimizer, 0, 1, scheduler_specific_kwargs=args.lr_scheduler_kwargs)


def run(trainer: MaskedLMTrainer, checkpoint: Path | None) -> dict[str, float]:
    """Train and evaluate as the trainer's arguments say, save the model and upstream's files, return all metrics."""
    args, metrics = trainer.args, {}
    if args.do_train:
        metrics |= train(trainer, checkpoint)
    if args.do_eval:
        evaluation = trainer.evaluate()
        evaluation |= {"perplexity": perplexity(evaluation["eval_loss"]), "eval_samples": len(trainer.eval_dataset)}
        trainer.save_metrics("eval", evaluation)
        metrics |= evaluation
    if args.do_train:
        trainer.save_state()
    return metrics


def train(trainer: MaskedLMTrainer, checkpoint: Path | None) -> dict[str, float]:
    """Train to the last step, and save the model; no metrics if the checkpoint is there already."""
    args = trainer.args
    if args.overwrite_output_dir and args.process_index == 0:
        checkpoints.remove_all(args.output_dir)
    # The metrics of the model as it was show what training brought; a resumed run has them in its state.
    args.eval_on_start = args.do_eval and checkpoint is None
    # Read before it is pruned.
    first = 0 if checkpoint is None else checkpoints.step_of(checkpoint)
    if 0 < args.max_steps <= first:
        # Of a stream, the Trainer would take one step more.
        trainer._load_from_checkpoint(str(checkpoint))
        trainer.state = TrainerState.load_from_json(checkpoint / "trainer_state.json")
    else:
        result = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        trainer.save_model()
    steps = trainer.state.global_step - first
    if not steps:
        logger.info("Nothing is left to train: %s is at the last step", checkpoint)
        return {}
    tokens = int(trainer.accelerator.reduce(trainer.real_tokens))
    seconds = result.metrics["train_runtime"] - trainer.evaluation_seconds
    metrics = result.metrics | {
        # Up to transformers 5.17, the Trainer divides by all steps, though it adds up those of this call.
        "train_loss": trainer._total_loss_scalar / steps,
        "train_tokens": tokens,
        "train_tokens_per_second": round(tokens / max(seconds, 1e-9), 1),
    }
    if hasattr(trainer.train_dataset, "__len__"):
        metrics["train_samples"] = len(trainer.train_dataset)
    trainer.save_metrics("train", metrics)
    return metrics
