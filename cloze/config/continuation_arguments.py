"""Define the settings of predictions by a causal language model: the texts to continue, and how."""

from dataclasses import dataclass

from cloze.config.arguments import check, option, optional, switch
from cloze.config.data_arguments import CausalArguments
from cloze.errors import UserError

# Settings that act on sampled tokens only.
OF_SAMPLES = ("temperature", "top_p", "top_k")


@dataclass
class ContinuationArguments(CausalArguments):
    """Select the data of run_clm.py, with the texts to continue and to score."""

    test_file: str | None = optional(
        help="For --do_predict: texts to continue and to score, one per line or table row."
    )
    max_new_tokens: int = option(50, help="For --do_predict: most tokens to add to a text.")
    do_sample: bool = switch(
        help="For --do_predict: draw each token from the model's probabilities, from --seed and the number of the row. "
        "Default: take the most probable one."
    )
    temperature: float | None = optional(
        help="With --do_sample: divides the logits; below 1 for more probable tokens. Default: 1."
    )
    top_p: float | None = optional(
        help="With --do_sample: draw from the most probable tokens that together have this probability. Default: 1."
    )
    top_k: int | None = optional(
        help="With --do_sample: draw from this number of most probable tokens. Default: all tokens."
    )

    def __post_init__(self):
        super().__post_init__()
        check(self, ["max_new_tokens"], lambda n: n >= 1, "is less than 1: give the most tokens to add to a text")
        # Smaller values overflow.
        small = "is less than 0.01: drop --do_sample to take the most probable tokens"
        check(self, ["temperature"], lambda value: value >= 0.01, small)
        check(self, ["top_p"], lambda share: 0 < share <= 1, "is not above 0 and at most 1: 0.9 is usual")
        check(self, ["top_k"], lambda n: n >= 1, "is less than 1: omit it to draw from all tokens")
        for name in OF_SAMPLES:
            if getattr(self, name) is not None and not self.do_sample:
                raise UserError(f"--{name} {getattr(self, name)} needs --do_sample: add it, or drop the flag")
