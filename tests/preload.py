"""What takes long in the first run of a process: imported by the server of processes, which are forked from it."""

from transformers import AutoModelForMaskedLM, AutoModelForPreTraining, BertConfig
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

# Imports the models' modules.
for auto_model in (AutoModelForMaskedLM, AutoModelForPreTraining):
    auto_model._model_mapping[BertConfig]
# Compiles 1000 regular expressions, before a model is saved.
get_checkpoint_conversion_mapping("bert")
