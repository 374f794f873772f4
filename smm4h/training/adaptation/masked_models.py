"""Masked-language models: which encoders have one, and the encoder that one has adapted."""

from pathlib import Path

import torch
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedModel,
    set_seed,
)
from transformers.modeling_outputs import BaseModelOutput

from smm4h.config.job import Member
from smm4h.data.tokenization import hub_arguments, load_tokenizer, loading_error
from smm4h.models.encoder_check import check_is_encoder
from smm4h.models.padding_free.encoder import PaddingFreeEncoder, supports_padding_free
from smm4h.utils.errors import InputError, user_message

CLASS = "AutoModelForMaskedLM"


def check_adaptable(member: Member) -> bool:
    """Return whether the encoder has no trained head for masked words, and gets a new one.

    The random numbers of torch stay as they are.

    Raises:
        InputError: for a decoder, and an encoder that has no masked-language model, no mask among its tokens, or fewer
            embeddings than tokens.
    """
    name = member.args.model_name_or_path
    try:
        config = AutoConfig.from_pretrained(name, **hub_arguments(member))
        check_is_encoder(config)
    except (OSError, ValueError) as error:
        raise InputError(loading_error(name, error)) from None
    has_own = CLASS in (getattr(config, "auto_map", None) or {})
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING and not has_own:
        raise InputError(
            f"adapt: {name} ({config.model_type}) has no masked-language model in transformers, as decoders have none; "
            "leave adapt out of its members' rows, or choose a BERT-like encoder"
        )
    tokenizer = load_tokenizer(member)
    if tokenizer.mask_token_id is None:
        raise InputError(f"adapt: the tokenizer of {name} has no mask token; leave adapt out of its members' rows")
    state = torch.get_rng_state()
    model, new = _load(member)
    torch.set_rng_state(state)
    n_tokens, n_embedded = max(len(tokenizer), tokenizer.mask_token_id + 1), model.get_input_embeddings().num_embeddings
    if n_tokens > n_embedded:  # any of them may stand in a masked one's place
        raise InputError(
            f"adapt: the tokenizer of {name} has {n_tokens} tokens, and its weights embed {n_embedded}; leave adapt "
            "out of its members' rows, or save the encoder's own tokenizer beside it"
        )
    return bool(new)


def at(member: Member, folder: Path) -> Member:
    """Return the member with the model in a folder as its encoder."""
    return member.with_settings(model_name_or_path=str(folder))


def load_masked_model(member: Member) -> PreTrainedModel:
    """Return the encoder's masked-language model; a head that it lacks is drawn from the member's seed."""
    return _load(member)[0]


def _load(member: Member) -> tuple[PreTrainedModel, set[str]]:
    """Return the encoder's masked-language model, and the names of the weights that it lacks."""
    name = member.args.model_name_or_path
    set_seed(member.args.seed)
    try:
        model, found = AutoModelForMaskedLM.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True, **hub_arguments(member)
        )
    except Exception as error:  # one class for each file that may be missing or broken
        if user_message(error):
            raise
        raise InputError(loading_error(name, error)) from None
    return model, set(found["missing_keys"])


def make_padding_free(model: PreTrainedModel, dtype: torch.dtype) -> bool:
    """Have a masked-language model on a CPU compute its encoder padding-free, if it can be; return whether it does.

    Args:
        dtype: of matrix products.
    """
    if not supports_padding_free(model.base_model):
        return False
    encoder = PaddingFreeEncoder(model.base_model, dtype)

    def forward(input_ids, attention_mask=None, token_type_ids=None, **_) -> BaseModelOutput:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        (states,) = encoder(input_ids, mask, n_layers=1, needs_tokens=True, token_type_ids=token_type_ids)
        return BaseModelOutput(last_hidden_state=states)

    model.base_model.forward = forward
    return True


def save_adapted(member: Member, trained: Path, folder: Path) -> None:
    """Save the encoder with the weights that a masked-language model has learnt, and its tokenizer as it is published.

    A pooler, which no masked-language model has, keeps its pretrained weights; one that was never trained is not saved,
    so that each run draws its own.

    Args:
        trained: folder of the masked-language model.
    """
    name, hub = member.args.model_name_or_path, hub_arguments(member)
    encoder, found = AutoModel.from_pretrained(name, dtype=torch.float32, output_loading_info=True, **hub)
    local = hub_arguments(at(member, trained))
    adapted, new = AutoModel.from_pretrained(trained, dtype=torch.float32, output_loading_info=True, **local)
    weights = {key: value for key, value in adapted.state_dict().items() if key not in new["missing_keys"]}
    encoder.load_state_dict(weights, strict=False)
    known = {key: value for key, value in encoder.state_dict().items() if key not in found["missing_keys"]}
    encoder.save_pretrained(folder, state_dict=known)
    AutoTokenizer.from_pretrained(name, **hub).save_pretrained(folder)
