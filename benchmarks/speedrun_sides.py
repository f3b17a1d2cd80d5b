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
        flags: flags of all sides, the stock Trainer's included, instead of the sides' own values.
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
    # Packages that torch and transformers install: a machine with a GPU may have no others.
    "bert-base": Size(
        {},
        target=6.0,
        packages=("torch", "transformers", "sympy", "networkx"),
        train_chars=3_000_000,
        use_cpu=False,
        # Eager attention is for CPUs.
        flags={"bf16": "true", "attn_implementation": "sdpa"},
    ),
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
    "stock": Side("benchmarks/stock_mlm.py", 1450, BASE | {"learning_rate": "5e-4"}),
    "stock-32": Side("benchmarks/stock_mlm.py", 350, {"per_device_train_batch_size": "32", "learning_rate": "1e-3"}),
}

# A technique is a row of the table; one that gave nothing stays, with kept=False.
TECHNIQUES = {
    # Logits at masked positions only, which run_mlm.py always computes.
    "sparse": Technique(None, Setting("5e-4", 1320)),
    "no-dropout": Technique(
        None,
        Setting("5e-4", 1200),
        config={"hidden_dropout_prob": "0", "attention_probs_dropout_prob": "0"},
    ),
    "bf16": Technique(Setting("5e-4", 1450), Setting("5e-4", 1200), {"bf16": "true"}),
    # Alone, that is with bf16: in float32 both are equally fast.
    "eager-attention": Technique(
        Setting("5e-4", 1450), Setting("5e-4", 1200), {"bf16": "true", "attn_implementation": "eager"}
    ),
    "batch-32": Technique(Setting("1e-3", 350), Setting("1e-3", 330), {"per_device_train_batch_size": "32"}),
    # Alone, with 8 blocks per step: half the rates, --sweep muon_learning_rate 2e-3.
    "muon": Technique(Setting("1e-3", 1060), Setting("2e-3", 240), {"optim": "muon", "muon_learning_rate": "4e-3"}),
    "warmup": Technique(Setting("5e-4", 1450), Setting("2e-3", 240), {"warmup_steps": "0.05"}, kept=False),
    "wsd": Technique(
        Setting("5e-4", 1180),
        Setting("2e-3", 240),
        {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": '{"num_decay_steps": 0.3}'},
        kept=False,
    ),
    "one-cycle": Technique(Setting("1e-3", 1270), Setting("2e-3", 240), {"warmup_steps": "0.4"}, kept=False),
    "beta2": Technique(Setting("5e-4", 1600), Setting("2e-3", 240), {"adam_beta2": "0.98"}, kept=False),
    "weight-decay": Technique(Setting("5e-4", 1450), Setting("2e-3", 240), {"weight_decay": "0.01"}, kept=False),
    # Alone: twice the other rate, too, --sweep embedding_learning_rate 1e-3.
    "embedding-rate": Technique(
        Setting("5e-4", 1450), Setting("2e-3", 240), {"embedding_learning_rate": "4e-3"}, kept=False
    ),
    "growing-lengths": Technique(
        Setting("5e-4", 1450), Setting("2e-3", 240), {"sequence_length_schedule": "64:128"}, kept=False
    ),
    "growing-batches": Technique(
        Setting("5e-4", 1320), Setting("2e-3", 400), {"batch_size_schedule": "0.25:0.5:1"}, kept=False
    ),
    "ema": Technique(Setting("5e-4", 1450), Setting("2e-3", 240), {"ema_decay": "0.99"}, kept=False),
    "masking-30": Technique(Setting("5e-4", 950), Setting("2e-3", 140), {"mlm_probability": "0.3"}),
    "falling-masking": Technique(
        Setting("5e-4", 1070),
        Setting("2e-3", 160),
        {"mlm_probability": "0.3", "final_mlm_probability": "0.15"},
        kept=False,
    ),
    "initial-weights": Technique(Setting("5e-4", 1450), Setting("2e-3", 115), config={"initializer_range": "0.05"}),
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
