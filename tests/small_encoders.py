"""Small random encoders of every kind, and classifiers on them."""

import torch
import transformers
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from heads import TweetClassifier, TweetClassifierConfig

SMALL = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
ENCODERS = {
    "bert": (transformers.BertConfig, SMALL),
    "roberta": (transformers.RobertaConfig, {**SMALL, "pad_token_id": 1}),
    "deberta-v2": (transformers.DebertaV2Config, {**SMALL, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "electra": (transformers.ElectraConfig, {**SMALL, "embedding_size": 8}),
    "distilbert": (
        transformers.DistilBertConfig,
        {"vocab_size": 60, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 64},
    ),
    "modernbert": (transformers.ModernBertConfig, {**SMALL, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2}),
}
DECODER = {**SMALL, "num_key_value_heads": 2, "pad_token_id": 0}
DECODERS = {
    "llama": (transformers.LlamaConfig, DECODER),
    "qwen3": (transformers.Qwen3Config, {**DECODER, "head_dim": 8}),
    "gemma3": (transformers.Gemma3TextConfig, {**DECODER, "head_dim": 8}),
    "mistral": (transformers.MistralConfig, DECODER),
    "gpt2": (transformers.GPT2Config, {"vocab_size": 60, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 64}),
    "modernbert-decoder": (transformers.ModernBertDecoderConfig, DECODER),
}


def small_classifier(folder, head, kind="bert", quantised=None, **settings) -> TweetClassifier:
    """Return a classifier of three labels on a new encoder, which is saved in a folder of its kind's name.

    Args:
        quantised: arguments that load the encoder in fewer bits.
    """
    config_class, small = {**ENCODERS, **DECODERS}[kind]
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config_class(**small)).save_pretrained(folder / kind)
    config = TweetClassifierConfig(head=head, bigru_hidden_size=8, num_labels=3, **settings)
    return TweetClassifier.from_encoder(str(folder / kind), config, **(quantised or {})).eval()


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train()


def gradients(model, inputs):
    """Return the loss, and the gradients by name."""
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


class CountingMode(TorchDispatchMode):
    """Counts the operators of a computation that write something, about one launch each on a GPU."""

    def __init__(self):
        super().__init__()
        self.n_launches = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.n_launches += not function.is_view and "empty" not in function.name()
        return result
