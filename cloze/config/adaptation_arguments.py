"""Define the settings with which a checkpoint gets another vocabulary."""

from dataclasses import dataclass

from cloze.config.arguments import ModelArguments, TrainingArguments, optional, switch
from cloze.errors import UserError


@dataclass
class AdaptationArguments(ModelArguments):
    """Select the model, and what to change in its vocabulary."""

    vocab_size: int | None = optional(  # type: ignore[assignment]  # null only with new_tokenizer
        help="Size of a tokenizer trained on the corpus, in tokens. Default: 30522, as BERT's; with --new_tokenizer, "
        "the size of the checkpoint's."
    )
    new_tokenizer: bool = switch(
        help="Replace the checkpoint's tokenizer by one of its kind, trained on the training text. Tokens that both "
        "have keep their weights; others get the mean weights of their old pieces."
    )

    def __post_init__(self):
        if self.vocab_size is None and not self.new_tokenizer:
            self.vocab_size = ModelArguments.vocab_size
        super().__post_init__()
        if not self.new_tokenizer:
            return
        if self.model_name_or_path is None:
            raise UserError("--new_tokenizer needs --model_name_or_path PATH: from scratch, leave it out")
        if self.tokenizer_name is not None:
            raise UserError("--new_tokenizer and --tokenizer_name exclude each other: drop one of them")
        if self.do_lower_case:
            raise UserError(
                "--new_tokenizer and --do_lower_case exclude each other, as the case is the checkpoint's: drop one of "
                "them"
            )

    @property
    def changes_vocabulary(self) -> bool:
        """Return whether a new run makes another tokenizer from the checkpoint's."""
        return self.new_tokenizer

    def check_run(self, training_args: TrainingArguments) -> None:
        """Raise UserError for a run that does not train on the text from which the tokenizer is made."""
        if self.new_tokenizer and not training_args.do_train:
            raise UserError("--new_tokenizer needs --do_train, as it is trained on the training text: add --do_train")
