"""Define the settings with which a checkpoint gets another vocabulary."""

from dataclasses import dataclass

from cloze.config.arguments import ModelArguments, TrainingArguments, check, optional, switch
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

    add_vocabulary: int | None = optional(
        help="Number of words of the training text to add to the checkpoint's tokenizer: those that save the most "
        "tokens. They get the mean weights of their pieces."
    )
    vocabulary_file: str | None = optional(help="File of words to add to the checkpoint's tokenizer, one per line.")

    def __post_init__(self):
        if self.vocab_size is None and not self.new_tokenizer:
            self.vocab_size = ModelArguments.vocab_size
        super().__post_init__()
        flags = self._vocabulary_flags
        for flag in flags:
            if self.model_name_or_path is None:
                raise UserError(
                    f"--{flag} needs --model_name_or_path PATH: leave it out to train from scratch, as the tokenizer "
                    "is then trained on the text"
                )
            if self.tokenizer_name is not None:
                raise UserError(f"--{flag} and --tokenizer_name exclude each other: drop one of them")
        if self.new_tokenizer and len(flags) > 1:
            raise UserError(f"--new_tokenizer and --{flags[1]} exclude each other: drop one of them")
        if self.new_tokenizer and self.do_lower_case:
            raise UserError(
                "--new_tokenizer and --do_lower_case exclude each other, as the case is the checkpoint's: drop one of "
                "them"
            )
        check(self, ["add_vocabulary"], lambda n: n >= 1, "is less than 1: give a number of words, such as 1000")

    @property
    def _vocabulary_flags(self) -> list[str]:
        """Return the settings in use that change the vocabulary."""
        return [
            name
            for name in ("new_tokenizer", "add_vocabulary", "vocabulary_file")
            if getattr(self, name) not in (None, False)
        ]

    @property
    def changes_vocabulary(self) -> bool:
        """Return whether a new run makes another tokenizer from the checkpoint's."""
        return bool(self._vocabulary_flags)

    def check_run(self, training_args: TrainingArguments) -> None:
        """Raise UserError for a run that does not train, as the vocabulary comes from and for the training text."""
        if self.changes_vocabulary and not training_args.do_train:
            flag = self._vocabulary_flags[0]
            raise UserError(f"--{flag} needs --do_train, as new tokens must be trained: add --do_train, or drop it")
