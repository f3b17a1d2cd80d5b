"""What the pretraining scripts share. Named after the Cloze test (Taylor, 1953), which masked language modelling is."""
