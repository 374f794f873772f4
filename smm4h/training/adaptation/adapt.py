"""Adapt an encoder to texts: masked-language modelling, once for all runs that fine-tune it.

Gururangan et al. 2020, "Don't Stop Pretraining". Resumed as runs are, in any process and with the same bytes; the files
of a run apply, without predictions: checkpoints, `model/`, metrics.json, DONE.
"""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PrinterCallback

from smm4h.config.job import Member
from smm4h.config.plans.run import Run
from smm4h.config.versions import OWN, own_version
from smm4h.data.tokenization import load_tokenizer
from smm4h.training import checkpoints
from smm4h.training.adaptation.masked_models import (
    at,
    check_adaptable,
    load_masked_model,
    make_padding_free,
    save_adapted,
)
from smm4h.training.adaptation.masking import MaskedTrainer, RepeatableMasking, masked_loss
from smm4h.training.adaptation.texts import texts_of
from smm4h.training.building.model import allows_padding_free
from smm4h.training.checkpoints import ResultFiles
from smm4h.training.resumable import RunMonitor, run_arguments
from smm4h.training.run import adopt_checkpoint, machine_of, own_folder, train_to_the_end
from smm4h.training.run_data import RunData, write_done
from smm4h.utils.files import write_json

SCORED_TEXTS = 512  # of which the loss is told before and after


def adaptation_notes(adaptations: Iterable[Run]) -> list[str]:
    """Check that encoders can be adapted; return a sentence for each that has to get a new head for masked words.

    Raises `InputError` for an encoder that can't.
    """
    headless = [run.member.args.model_name_or_path for run in adaptations if check_adaptable(run.member)]
    return [
        f"{name} has no trained head for masked words; a new one is drawn, and learns beside the encoder that is "
        "adapted; that has done harm, so compare scores with those of the encoder as it is"
        for name in dict.fromkeys(headless)
    ]


def adapt_encoder(
    run: Run,
    data: RunData,
    report: Callable[[int, int], None] = lambda step, steps: None,
    stop: Callable[[], bool] = lambda: False,
    on_trained: Callable[[], None] = lambda: None,
) -> None:
    """Adapt an encoder, resuming where an earlier process was interrupted, and write the run's folder, DONE last.

    For the arguments see `train_run`. Raises `Stopped` after saving on a stop.
    """
    with own_folder(run) as own:
        texts = texts_of(run.member, data.token_folder)
        trainer = masked_trainer(run, data, own, texts, report, stop)
        checkpoint = adopt_checkpoint(run, trainer, own)
        train_to_the_end(run, trainer, checkpoint)
        on_trained()
        trainer.save_model(str(own / "masked"))
        checkpoints.on_main_process(lambda: _finish(run, trainer, own, texts))
        trainer.accelerator.wait_for_everyone()
        trainer.accelerator.free_memory()


def masked_trainer(run: Run, data: RunData, own: Path, texts: Dataset, report, stop) -> MaskedTrainer:
    """Build the trainer of an adaptation: model, texts, masks and callbacks; see `run._trainer`."""
    member = run.member
    arguments = run_arguments(member, own)
    arguments.run_name, arguments.report_to = run.name, []
    batches = math.ceil(len(texts) / arguments.per_device_train_batch_size)
    if batches * arguments.num_train_epochs <= 1:
        arguments.warmup_steps = 0  # it would be rounded up to the one step, whose learning rate is 0
    tokenizer = load_tokenizer(member)
    model = load_masked_model(member)
    if arguments.device.type == "cpu" and allows_padding_free(member, arguments):
        make_padding_free(model, torch.bfloat16 if arguments.bf16 else torch.float32)
    trainer = MaskedTrainer(
        model=model,
        args=arguments,
        train_dataset=texts,
        data_collator=_masking(member, tokenizer),
        processing_class=tokenizer,
        run_directory=run.directory,
        facts={"fingerprint": run.fingerprint, "seed": member.args.seed, OWN: own_version()},
        watch=RunMonitor(report, stop, data.save_minutes),
    )
    trainer.remove_callback(PrinterCallback)  # the job displays the progress of all its runs
    return trainer


def _masking(member: Member, tokenizer) -> RepeatableMasking:
    adaptation = member.adaptation
    return RepeatableMasking(tokenizer, mlm_probability=adaptation.mlm_probability, seed=adaptation.seed)


def _finish(run: Run, trainer: MaskedTrainer, own: Path, texts: Dataset) -> None:
    """Save the adapted encoder, score it, and write DONE."""
    save_adapted(run.member, own / "masked", own / "model")
    written = ResultFiles(run)
    write_json(run.metrics_file, {"fingerprint": run.fingerprint, **_facts(run, trainer, own / "masked", texts)})
    written.add(run.metrics_file)
    checkpoints.move_into_place(own / "model", run.model)
    seconds = trainer.watch.training_seconds()
    record = {"seconds": round(seconds, 2), "training_seconds": round(seconds, 2), **machine_of(trainer.args)}
    write_done(run, record, written.files)


def _facts(run: Run, trainer: MaskedTrainer, trained: Path, texts: Dataset) -> dict[str, Any]:
    """Return what is told of an adaptation: texts, steps, and the loss on some of the texts before and after."""
    chosen = np.unique(np.linspace(0, len(texts) - 1, SCORED_TEXTS).astype(int))
    rows = [{"input_ids": ids} for ids in texts.select(chosen)["input_ids"]]
    collator, size = trainer.data_collator, run.member.args.per_device_train_batch_size
    losses = {
        name: round(masked_loss(load_masked_model(member).to(trainer.args.device), rows, collator, size), 4)
        for name, member in (("before", run.member), ("after", at(run.member, trained)))
    }
    return {"texts": len(texts), "steps": trainer.state.global_step, "masked_loss": losses}
