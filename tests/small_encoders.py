"""Small random encoders of every kind, and classifiers on them."""

import torch
import transformers

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


def small_classifier(folder, head, kind="bert", **settings) -> TweetClassifier:
    """Return a classifier of three labels on a new encoder, which is saved in a folder of its kind's name."""
    config_class, small = {**ENCODERS, **DECODERS}[kind]
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config_class(**small)).save_pretrained(folder / kind)
    config = TweetClassifierConfig(head=head, bigru_hidden_size=8, num_labels=3, **settings)
    return TweetClassifier.from_encoder(str(folder / kind), config).eval()
