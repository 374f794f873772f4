"""A run's model: a head on a pretrained encoder, with its adapter, computed padding-free where settings allow it."""

import torch
from datasets import Dataset
from transformers import set_seed

from heads import TweetClassifier, TweetClassifierConfig
from smm4h.config.job import Member
from smm4h.config.task import Task
from smm4h.data.tokenization import hub_arguments, loading_error, used_ids
from smm4h.models.padding_free.choice import padding_free_encoder
from smm4h.models.padding_free.encoder import supports_padding_free
from smm4h.training.adapters import add_member_adapter, has_adapter, quantised
from smm4h.training.optim import SparseRowEmbedding
from smm4h.training.resumable import RunArguments
from smm4h.utils.errors import InputError

ADAMS = ("radam", "adamw_torch", "adamw_torch_fused")  # leave weights without a gradient unchanged


def build_model(member: Member, task: Task, device: torch.device | None = None) -> TweetClassifier:
    """Return the member's head on its pretrained encoder, with new weights drawn from the member's seed.

    Args:
        device: of an encoder that is quantised; any other is loaded on the CPU.

    Raises `InputError` for an encoder that cannot be loaded.
    """
    set_seed(member.args.seed)
    config = TweetClassifierConfig(
        head=member.args.head,
        bigru_input=member.args.bigru_input,
        bigru_hidden_size=member.args.bigru_hidden_size,
        classifier_dropout=member.args.classifier_dropout,
        cleaning=member.args.cleaning,
        task_name=task.name,
        context=task.context or None,
        truncation=member.args.truncation,
        max_windows=member.args.max_windows,
        window_pooling=member.args.window_pooling,
        rare=task.positive_indices,
        id2label=dict(enumerate(task.labels)),
        label2id={label: index for index, label in enumerate(task.labels)},
        problem_type=task.space.problem_type,
    )
    name = member.args.model_name_or_path
    try:
        given = {"dtype": torch.float32, **hub_arguments(member), **quantised(member, device or torch.device("cpu"))}
        model = TweetClassifier.from_encoder(name, config, **given)
    except (OSError, ValueError) as error:
        raise InputError(loading_error(name, error)) from None
    if member.adapter is not None:
        add_member_adapter(model, member)
    return model


def is_padding_free(member: Member, arguments: RunArguments, model: TweetClassifier) -> bool:
    """Return whether `models.padding_free` may compute the run's encoder."""
    allowed = allows_padding_free(member, arguments) and not has_adapter(model)
    return allowed and supports_padding_free(model.encoder, model.head)


def allows_padding_free(member: Member, arguments: RunArguments) -> bool:
    """Return whether a training's settings let `models.padding_free` compute its encoder.

    True in a single process, without settings that change the encoder's forward, and on a GPU without those that call
    it more than once a step.
    """
    changed = arguments.fp16, arguments.gradient_checkpointing, arguments.torch_compile, arguments.neftune_noise_alpha
    is_plain = not any(changed)
    if arguments.device.type != "cpu":
        is_plain = is_plain and arguments.gradient_accumulation_steps == 1 and arguments.n_gpu == 1
    return member.args.packed and arguments.world_size == 1 and is_plain


def make_padding_free(model: TweetClassifier, arguments: RunArguments, tweets: Dataset) -> None:
    """Skip work without effect: padding, states that no head reads, updates of word pieces absent from the data."""
    model.to(arguments.device)
    model.encoder_override = padding_free_encoder(model, torch.bfloat16 if arguments.bf16 else torch.float32)
    if model.encoder_override is not None and arguments.optim in ADAMS and arguments.weight_decay == 0:
        embeddings = model.encoder.embeddings
        n_rows = embeddings.word_embeddings.num_embeddings
        embeddings.word_embeddings = SparseRowEmbedding(embeddings.word_embeddings, used_ids(tweets, n_rows))
