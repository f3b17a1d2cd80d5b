"""Average the weights over optimizer steps: evaluations and the saved model use the average."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback

from cloze.config.arguments import TrainingArguments
from cloze.errors import UserError
from cloze.training.checkpoints import Progress
from cloze.training.saving import SavingTrainer

# In a checkpoint, whose model.safetensors has the weights that training resumes from.
AVERAGE = "averaged_weights.safetensors"


class WeightAverage(TrainerCallback):
    """Keep an exponential moving average of the weights that are trained, in float32 on their device.

    After step t the decay is min(decay, (1 + t) / (10 + t)), as in TensorFlow: a short run is not dominated by its
    initial weights. Tied weights are averaged once.

    Args:
        decay: the largest decay.

    Attributes:
        steps: optimizer steps averaged.
        weights: the model's weights by name.
        average: their averages, in the same order.
        checkpoint: the checkpoint to resume from, if any.
    """

    def __init__(self, decay: float):
        self.decay, self.steps = decay, 0
        self.weights: dict[str, nn.Parameter] = {}
        self.average: list[torch.Tensor] = []
        self.checkpoint: Path | None = None

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """Begin with the checkpoint's average, or with the model's weights if there is none."""
        self.steps, self.weights = 0, trained_weights(model)
        self.average = [weight.detach().to(torch.float32, copy=True) for weight in self.weights.values()]
        if self.checkpoint is not None and (self.checkpoint / AVERAGE).exists():
            self.steps = read_average(self.checkpoint, dict(zip(self.weights, self.average, strict=True)))

    def on_optimizer_step(self, args, state, control, **kwargs):
        """Move the average towards the weights after the step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        current = [weight.detach().float() for weight in self.weights.values()]
        get_ema_multi_avg_fn(decay)(self.average, current, None)

    def apply(self) -> None:
        """Replace the model's weights by their averages."""
        assign(self.weights.values(), self.average)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Replace the model's weights by their averages temporarily."""
        own = [weight.detach().clone() for weight in self.weights.values()]
        self.apply()
        try:
            yield
        finally:
            assign(self.weights.values(), own)

    def write(self, checkpoint: Path) -> None:
        """Write the average to a checkpoint."""
        tensors = dict(zip(self.weights, self.average, strict=True))
        save_file(tensors, checkpoint / AVERAGE, metadata={"format": "pt", "steps": str(self.steps)})


def trained_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights that are trained by name, tied ones once."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


@torch.no_grad()
def assign(weights: Iterable[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
    """Copy values into weights, converted to their type."""
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)


def read_average(checkpoint: Path, weights: Mapping[str, torch.Tensor]) -> int:
    """Copy a checkpoint's average into weights, and return the number of steps averaged."""
    with safe_open(checkpoint / AVERAGE, framework="pt") as file:
        assign(weights.values(), [file.get_tensor(name) for name in weights])
        return int(file.metadata()["steps"])


class AveragingTrainer(SavingTrainer):
    """Average the weights if --ema_decay is given; training itself is unchanged.

    Args:
        args: the training arguments.
        callbacks: callbacks to add.
        **kwargs: further arguments of the Trainer.

    Attributes:
        average: the average, None without --ema_decay.
    """

    def __init__(self, args: TrainingArguments, callbacks: Sequence[TrainerCallback] = (), **kwargs):
        self.average = WeightAverage(args.ema_decay) if args.ema_decay is not None else None
        # First: a callback may run an evaluation that is due when training begins.
        own = [self.average] if self.average is not None else []
        super().__init__(args=args, callbacks=[*own, *callbacks], **kwargs)
        if self.average is not None and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise UserError("--ema_decay does not support FSDP or DeepSpeed: drop it, or train without them")

    def train(self, resume_from_checkpoint=None, *args, **kwargs):
        """Train, and leave the weights that the last evaluation used, or with --load_best_model_at_end the best's."""
        if self.average is not None and resume_from_checkpoint is not None:
            self.average.checkpoint = Path(resume_from_checkpoint)
        result = super().train(resume_from_checkpoint, *args, **kwargs)
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        if best is not None and Path(best).is_dir():
            # Without an average, the best checkpoint was evaluated with the weights that the Trainer has loaded.
            if (Path(best) / AVERAGE).exists():
                read_average(Path(best), trained_weights(self.model))
        elif self.average is not None:
            self.average.apply()
        return result

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Return a context in which the model has the averaged weights; after training it has them anyway."""
        return nullcontext() if self.average is None or not self.is_in_train else self.average.applied()

    def evaluation_loop(self, *args, **kwargs):
        """Evaluate or predict with the averaged weights."""
        with self.averaged_weights():
            return super().evaluation_loop(*args, **kwargs)

    def save_model(self, output_dir=None, _internal_call=False):
        """Save the model; a checkpoint that cannot be resumed has the averaged weights."""
        with self.averaged_weights() if self.args.save_only_model else nullcontext():
            super().save_model(output_dir, _internal_call)

    def write_state(self, progress: Progress | None, folder: Path) -> None:
        """Write what the Trainer does not, with the average unless the model alone is saved."""
        super().write_state(progress, folder)
        if self.average is not None and progress is not None:
            self.average.write(folder)
