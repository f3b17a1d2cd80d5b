"""The run: context, Trainer, checkpoints, resuming, dry run."""
