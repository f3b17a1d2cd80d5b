"""Define the task of run_classification.py, text classification."""

from collections.abc import Sequence
from typing import Any, ClassVar

from transformers import AutoModelForSequenceClassification, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from cloze.config.classification_arguments import POOLINGS
from cloze.data.classification import make_labelled
from cloze.data.context import DataContext
from cloze.data.splits import DatasetSplits
from cloze.errors import UserError
from cloze.inference.classify import classify_samples
from cloze.objectives.classification import CLASSES
from cloze.objectives.task import Task
from cloze.tasks.masked_lm import MASKED_LM
from cloze.training.trainer import PretrainingTrainer


class Classification(Task):
    """Predict the class of a text or of a pair of texts."""

    title = "text classifier"
    head = "classification head"
    auto_model = AutoModelForSequenceClassification
    # Decoders are excluded: they classify by the last token, which needs padding on the left.
    model_types = tuple(
        name for name in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES if name in MASKED_LM.model_types
    )
    instead = MASKED_LM.instead
    objectives: ClassVar = {"": CLASSES}
    renews_head = True
    pipeline_tag = "text-classification"

    def configure(self, config: PretrainedConfig, model_args: Any) -> None:
        """Set what the classifier reads; raise UserError if the architecture has no such setting."""
        pooling = getattr(model_args, "classifier_pooling", None)
        if pooling is None:
            return
        if getattr(type(config)(), "classifier_pooling", None) not in POOLINGS:
            raise UserError(
                f"--classifier_pooling {pooling}: the classifier of {config.model_type} has no choice of pooling: drop "
                "the flag, or give a ModernBERT model"
            )
        config.classifier_pooling = pooling

    def make_splits(self, context: DataContext) -> DatasetSplits:
        """Return labelled texts; log their statistics and a sample."""
        return make_labelled(context)

    def predict_samples(self, trainer: PretrainingTrainer, samples: Sequence[dict]) -> dict[str, list[str]]:
        """Return the predicted classes of four samples."""
        spread = samples[:: max(1, len(samples) // 4)][:4]
        return {"Sample texts and predicted classes": classify_samples(trainer, spread)}


CLASSIFICATION = Classification()
