"""Define the data settings of run_plm.py as a dataclass: the text to read and the tokens to predict."""

from dataclasses import dataclass
from typing import ClassVar

from cloze.config.arguments import check, option
from cloze.config.data_arguments import MAX_DEFAULT_LENGTH, BlockArguments
from cloze.errors import UserError

# XLNet's, and those of all evaluations, whatever the training flags.
PLM_PROBABILITY = 1 / 6
MAX_SPAN_LENGTH = 5


@dataclass
class PermutationArguments(BlockArguments):
    """Select the data of run_plm.py."""

    # The parts of XLNet's code that compute its relative positions stay in float32, whatever its weights.
    excluded_flags: ClassVar[dict[str, str]] = {
        "do_predict": "XLNet continues texts with generate of transformers",
        "bf16_full_eval": "XLNet needs float32 weights",
        "fp16_full_eval": "XLNet needs float32 weights",
    }

    plm_probability: float = option(
        PLM_PROBABILITY,
        help="Fraction of the tokens to predict in training, in spans. Evaluations predict one in six.",
    )
    max_span_length: int = option(
        MAX_SPAN_LENGTH, help="Longest span of tokens to predict in training. Evaluations have spans of up to 5."
    )

    def __post_init__(self):
        super().__post_init__()
        check(self, ["plm_probability"], lambda share: 0 < share < 1, "is not above 0 and below 1: XLNet has 1/6")
        check(self, ["max_span_length"], lambda n: n >= 1, "is less than 1: give a number of tokens; XLNet has 5")
        longest = self.max_seq_length or MAX_DEFAULT_LENGTH
        if self.plm_probability * longest < 1:
            raise UserError(
                f"--plm_probability {self.plm_probability} is less than a token of an example of {longest}: raise it; "
                "XLNet has 1/6"
            )
        if self.max_span_length > longest:
            default = "" if self.max_seq_length else ", the default"
            raise UserError(
                f"--max_span_length {self.max_span_length} is more than --max_seq_length {longest}{default}: lower it"
            )
