"""List the sides of speedrun.py: the stock Trainer, and run_mlm.py with a technique alone and on top of others."""

from dataclasses import dataclass, field
from typing import NamedTuple

from adaptation_text import PACKAGES


@dataclass(frozen=True)
class Size:
    """Hold what the size of a speedrun fixes.

    Attributes:
        config: BERT's config.
        target: held-out masked loss to reach.
        packages: packages whose docstrings are the text.
        train_chars: characters to train on.
        held_out_chars: characters to evaluate on.
        vocab_size: tokens of the tokenizer.
        use_cpu: whether to train on the CPU even if there is a GPU.
        flags: flags of all sides, the stock Trainer's included.
    """

    config: dict[str, str]
    target: float
    packages: tuple[str, ...] = PACKAGES
    train_chars: int = 5_000_000
    held_out_chars: int = 400_000
    vocab_size: int = 8_192
    use_cpu: bool = True
    flags: dict[str, str] = field(default_factory=dict)


class Setting(NamedTuple):
    """Hold the best peak learning rate of a side, and its number of steps."""

    rate: str
    steps: int


@dataclass(frozen=True)
class Technique:
    """Hold the flags of a technique and its part of the config, with the settings of its two sides.

    Attributes:
        alone: of run_mlm.py with this technique only; None if that is the same.
        on_top: of run_mlm.py with this technique and the kept ones before it.
        flags: of run_mlm.py.
        config: what it changes in the config.
        kept: whether the techniques after it come on top of it.
    """

    alone: Setting | None
    on_top: Setting
    flags: dict[str, str] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=dict)
    kept: bool = True


@dataclass(frozen=True)
class Side:
    """Hold the script of a side, its number of steps, and the flags and the config that the size does not give."""

    script: str
    steps: int
    flags: dict[str, str]
    config: dict[str, str] = field(default_factory=dict)


SIZES = {
    "small": Size(
        {"hidden_size": "256", "num_hidden_layers": "4", "num_attention_heads": "4", "intermediate_size": "1024"},
        target=6.0,
    ),
    "bert-base": Size({}, target=4.0, use_cpu=False, flags={"bf16": "true"}),
    # Only tests that the benchmark runs.
    "quick": Size(
        {"hidden_size": "32", "num_hidden_layers": "2", "num_attention_heads": "2", "intermediate_size": "64"},
        target=6.8,
        packages=("networkx",),
        train_chars=200_000,
        held_out_chars=20_000,
        vocab_size=1_000,
    ),
}

BASE = {"per_device_train_batch_size": "8"}
# Upstream's default batch, and a larger one.
STOCK = {
    "stock": Side("benchmarks/stock_mlm.py", 1200, BASE | {"learning_rate": "1e-3"}),
    "stock-32": Side("benchmarks/stock_mlm.py", 300, {"per_device_train_batch_size": "32", "learning_rate": "1e-3"}),
}

# A technique is a row of the table; one that gave nothing stays, with kept=False.
TECHNIQUES = {
    # Logits at masked positions only, which run_mlm.py always computes.
    "sparse": Technique(None, Setting("1e-3", 1200)),
    "no-dropout": Technique(
        None,
        Setting("1e-3", 1200),
        config={"hidden_dropout_prob": "0", "attention_probs_dropout_prob": "0"},
    ),
    "batch-32": Technique(Setting("1e-3", 300), Setting("1e-3", 300), {"per_device_train_batch_size": "32"}),
    "warmup": Technique(Setting("2e-3", 1200), Setting("2e-3", 300), {"warmup_steps": "0.05"}),
    "beta2": Technique(Setting("1e-3", 1200), Setting("2e-3", 300), {"adam_beta2": "0.98"}),
    "weight-decay": Technique(Setting("1e-3", 1200), Setting("2e-3", 300), {"weight_decay": "0.01"}),
    "masking-30": Technique(Setting("1e-3", 1200), Setting("2e-3", 300), {"mlm_probability": "0.3"}),
    "initial-weights": Technique(Setting("1e-3", 1200), Setting("2e-3", 300), config={"initializer_range": "0.05"}),
}


def sides() -> dict[str, Side]:
    """Return all sides by name: the stock Trainer's, and NAME-alone and NAME of each technique."""
    found = dict(STOCK)
    kept_flags, kept_config = dict(BASE), {}
    for name, technique in TECHNIQUES.items():
        if technique.alone is not None:
            found[f"{name}-alone"] = _side(technique.alone, BASE | technique.flags, technique.config)
        flags, config = kept_flags | technique.flags, kept_config | technique.config
        found[name] = _side(technique.on_top, flags, config)
        if technique.kept:
            kept_flags, kept_config = flags, config
    return found


def _side(setting: Setting, flags: dict[str, str], config: dict[str, str]) -> Side:
    return Side("run_mlm.py", setting.steps, flags | {"learning_rate": setting.rate}, config)
