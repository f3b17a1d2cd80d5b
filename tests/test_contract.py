"""Which private names of transformers and accelerate are used, and that the installed versions still have them."""

import ast
import inspect
import re
from pathlib import Path

import accelerate
import pytest
import transformers
from accelerate.data_loader import DataLoaderShard
from transformers import Trainer

import cloze
from cloze.training.trainer import PretrainingTrainer

# Name -> parameters; None is an attribute that Trainer.__init__ assigns. At most five.
PRIVATE = {
    "_save_checkpoint": "(self, model, trial)",  # saving.py: written to a staging folder, renamed when complete
    "_push_from_checkpoint": "(self, checkpoint_folder)",  # saving.py: pushes the renamed folder
    "_maybe_log_save_evaluate": (  # callbacks.py: the evaluation that was due when a run was stopped
        "(self, tr_loss, grad_norm, model, trial, epoch, ignore_keys_for_eval, start_time, learning_rate=None)"
    ),
    "_issue_warnings_after_load": "(self, load_result)",  # trainer.py: tied weights are not missing
    "_train_batch_size": None,  # resume.py: what auto_find_batch_size has come to
}
# Public ones that are overridden and that the Trainer's loop calls with arguments of its own.
PUBLIC = {
    "create_optimizer": "(self, model=None)",
    "create_scheduler": "(self, num_training_steps, optimizer=None)",
    "evaluate": "(self, eval_dataset=None, ignore_keys=None, metric_key_prefix='eval')",
    "get_batch_samples": "(self, epoch_iterator, num_batches, device)",
    "get_eval_dataloader": "(self, eval_dataset=None)",
    "get_optimizer_cls_and_kwargs": "(args, model=None)",
    "get_test_dataloader": "(self, test_dataset)",
    "get_train_dataloader": "(self)",
    "log": "(self, logs, start_time=None)",
    "prediction_step": "(self, model, inputs, prediction_loss_only, ignore_keys=None)",
    "save_model": "(self, output_dir=None, _internal_call=False)",
    "set_initial_training_values": "(self, args, dataloader)",
    "train": "(self, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None)",
    "training_step": "(self, model, inputs, num_items_in_batch=None)",
}
LIBRARIES = {
    transformers: ("trainer", "trainer_callback", "training_args", "modeling_utils", "tokenization_utils_base"),
    accelerate: ("accelerator", "data_loader", "optimizer", "scheduler", "state"),
}
PACKAGE = Path(cloze.__file__).parent


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names_in(path: Path) -> set[str]:
    """The private attributes, methods and imported names in a module's source."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.ClassDef):
            names |= {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
            targets = [target for each in node.body if isinstance(each, ast.Assign) for target in each.targets]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("transformers", "accelerate"):
            names |= {alias.name for alias in node.names}
    return set(filter(is_private, names))


def private_names_of_libraries() -> set[str]:
    folders = {Path(library.__file__).parent: modules for library, modules in LIBRARIES.items()}
    return {
        name
        for folder, modules in folders.items()
        for each in modules
        for name in private_names_in(folder / f"{each}.py")
    }


def parameters_of(function) -> str:
    signature = inspect.signature(function)
    plain = [each.replace(annotation=inspect.Parameter.empty) for each in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))


@pytest.mark.parametrize("name", [*PRIVATE, *PUBLIC])
def test_the_trainer_has_what_is_used_of_it(name):
    expected, installed = (PRIVATE | PUBLIC)[name], f"transformers {transformers.__version__}"
    if expected is None:
        assert re.search(rf"self\.{name} = ", inspect.getsource(Trainer.__init__)), (
            f"{installed}: Trainer.__init__ does not assign {name}: see what took its place"
        )
        return
    assert hasattr(Trainer, name), f"{installed}: Trainer.{name} is gone: see what its callers in trainer.py call now"
    assert parameters_of(getattr(Trainer, name)) == expected, (
        f"{installed}: Trainer.{name} has other parameters: compare its body and its callers in trainer.py with what "
        "cloze/training overrides or calls, run tests/scripts/test_resuming.py, and then change this table"
    )


def test_accelerates_loader_copies_without_waiting():
    """stream.py gives it the argument by name, which no scan of attributes finds."""
    assert "_non_blocking" in inspect.signature(DataLoaderShard.__init__).parameters


def test_no_other_private_name_is_used():
    """No helper of the same name overrides one by chance."""
    theirs = private_names_of_libraries()
    assert {"_inner_training_loop", "_set_sync_gradients"} <= theirs
    used = {}
    for path in PACKAGE.rglob("*.py"):
        for name in private_names_in(path) & theirs:
            used.setdefault(name, []).append(str(path.relative_to(PACKAGE)))
    assert set(used) == set(PRIVATE), "use a public name, or say in PRIVATE why there is none"
    assert len(PRIVATE) <= 5


def test_each_public_method_in_the_table_is_overridden():
    assert [name for name in PUBLIC if getattr(PretrainingTrainer, name) is getattr(Trainer, name)] == []
