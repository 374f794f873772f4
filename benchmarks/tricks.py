"""Ways to train that no recipe has, each beside the training of `recipes/rare.yaml`'s first member, paired.

python benchmarks/tricks.py --task tasks/task2_en.yaml --data_dir DIR --model_name_or_path ENCODER \\
    --output_dir runs/tricks --draws 51 52 --seeds 1 2

DIR holds the task's official files and the gold labels of its test file. Each draw takes `--tweets` labelled tweets and
others to test on. A model is trained on all labelled tweets for each way and seed; how it ranks the test tweets is told
by average precision of the rare labels, which needs no decision. The same command again goes on.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product

import numpy as np
import quality
import torch
from promises import tweets_parser
from sklearn.metrics import average_precision_score
from torch.nn import functional
from transformers import AutoTokenizer, PreTrainedTokenizerBase, get_linear_schedule_with_warmup

from heads import TweetClassifier, TweetClassifierConfig
from smm4h.config.recipe import read_recipe
from smm4h.config.task import Task
from smm4h.config.task_file import read_task
from smm4h.data.dataset import column, read_tweets
from smm4h.training.losses import Loss, targets_of
from smm4h.training.optim import RAdam
from smm4h.training.trainer import LAYER, layer_depths
from smm4h.utils.console import silence_libraries

SHARED = read_recipe(str(quality.ROOT / "recipes" / "rare.yaml")).shared
BATCH, EPOCHS = SHARED["per_device_train_batch_size"], SHARED["num_train_epochs"]
NEGATIVES, SMOOTHING = int(SHARED["negatives_per_positive"]), SHARED["label_smoothing_factor"]
RATE, RATE_WIDTH, LAYER_DECAY = SHARED["learning_rate"], SHARED["learning_rate_width"], SHARED["layer_decay"]
BETAS, EPSILON = (0.9, SHARED["adam_beta2"]), SHARED["adam_epsilon"]  # the first is Trainer's default
MAX_NORM = 1.0  # of the gradients, Trainer's
KEPT_OF_AVERAGE = 0.98  # a step, of the moving average, at most: less in the beginning, which it would not forget
TEMPERATURE = 0.3  # of the contrastive loss, Gunel et al. 2021


@dataclass(frozen=True)
class Way:
    """A way to train.

    Args:
        average: predict by a moving average of the weights, too, as a way of its own: its name.
        frozen: share of the encoder's layers, from below, that are not trained, nor are its embeddings then.
        masks: dropout masks of the features of a tweet, whose mean loss is taken (Inoue 2019).
        dropout: of the features.
        word_dropout: share of the word pieces that are masked in training.
        contrast: share of the supervised contrastive loss (Gunel et al. 2021) in the loss.
    """

    name: str
    average: str | None = None
    epochs: float = 1  # factor
    frozen: float = 0.0
    masks: int = 1
    dropout: float = 0.1
    word_dropout: float = 0.0
    contrast: float = 0.0


RECIPE = "as the recipe does"
WAYS = (
    Way(RECIPE, average="moving average of the weights"),
    Way("twice the epochs", epochs=2),
    Way("half the epochs", epochs=0.5),
    Way("lower half of the layers frozen", frozen=0.5),
    Way("five dropout masks of 0.3", masks=5, dropout=0.3),
    Way("a tenth of the word pieces masked", word_dropout=0.1),
    Way("a third of the loss contrastive", contrast=1 / 3),
)


@dataclass(frozen=True)
class Texts:
    """Labelled tweets and test tweets of a draw, as word pieces."""

    train: list[list[int]]
    labels: np.ndarray  # (n_tweets,) class indices
    test: list[list[int]]
    gold: np.ndarray  # (n_test_tweets,) class indices
    task: Task

    @property
    def positive(self) -> list[int]:
        """Class indices of the rare labels."""
        return list(self.task.positive_indices)


def main() -> None:
    arguments = read_arguments()
    silence_libraries()
    task = read_task(arguments.task)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model_name_or_path)
    found: dict[str, list[np.ndarray]] = {}
    seconds: dict[str, list[float]] = {}
    golds = []
    for draw in arguments.draws:
        texts = draw_texts(draw, task, tokenizer, arguments)
        golds += [np.isin(texts.gold, texts.positive)] * len(arguments.seeds)
        for seed, way in product(arguments.seeds, WAYS):
            rare, took = trained(way, texts, draw, seed, tokenizer, arguments)
            for name, probabilities in rare.items():
                found.setdefault(name, []).append(probabilities)
            seconds.setdefault(way.name, []).append(took)
    print_rows(found, seconds, golds, len(arguments.seeds))


def read_arguments() -> argparse.Namespace:
    parser = tweets_parser(__doc__, tweets=500, test_tweets=2000)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--draws", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="of the models")
    parser.add_argument("--max_seq_length", type=int, default=80)
    parser.add_argument("--min_steps", type=int, default=SHARED["min_steps"], help="as the setting")
    parser.add_argument("--bf16", action="store_true", help="compute in bf16, as jobs do where the hardware has it")
    return parser.parse_args()


def draw_texts(draw: int, task: Task, tokenizer: PreTrainedTokenizerBase, arguments: argparse.Namespace) -> Texts:
    own = argparse.Namespace(**{**vars(arguments), "seed": draw, "output_dir": arguments.output_dir / str(draw)})
    gold = quality.draw(own, task)
    pieces, labels = {}, None
    for part in ("train", "test"):
        tweets, _ = read_tweets([own.output_dir / f"{part}.tsv"], task, labelled=part == "train")
        texts = column(tweets, "text").to_pylist()
        pieces[part] = tokenizer(texts, truncation=True, max_length=arguments.max_seq_length)["input_ids"]
        labels = column(tweets, "label").to_numpy() if part == "train" else labels
    return Texts(pieces["train"], labels, pieces["test"], gold, task)


def trained(
    way: Way,
    texts: Texts,
    draw: int,
    seed: int,
    tokenizer: PreTrainedTokenizerBase,
    arguments: argparse.Namespace,
) -> tuple[dict[str, np.ndarray], float]:
    """Return the rare labels' probabilities (n_test_tweets,) by name of way, and the seconds of training.

    They are kept in a file, and read from there the next time.
    """
    settings = {**asdict(way), **vars(arguments), "seed": seed, "draws": draw, "seeds": None}
    name = hashlib.sha256(json.dumps([settings, texts.train, texts.test], default=str).encode()).hexdigest()[:16]
    path = arguments.output_dir / str(draw) / f"{name}.npz"
    if not path.exists():
        torch.manual_seed(seed)
        config = TweetClassifierConfig(head="last2_pooler", num_labels=texts.task.n_classes)
        model = TweetClassifier.from_encoder(arguments.model_name_or_path, config, dtype=torch.float32)
        started = time.monotonic()
        average = train(model, way, texts, tokenizer, np.random.default_rng(seed), arguments)
        took = time.monotonic() - started
        rare = {way.name: predict(model, texts, tokenizer, bf16=arguments.bf16)}
        if way.average:
            model.load_state_dict(average, strict=False)
            rare[way.average] = predict(model, texts, tokenizer, bf16=arguments.bf16)
        unfinished = path.with_suffix(".part.npz")
        np.savez(unfinished, seconds=took, names=list(rare), rare=np.stack(list(rare.values())))
        unfinished.replace(path)
    with np.load(path) as kept:
        return dict(zip(kept["names"].tolist(), kept["rare"], strict=True)), float(kept["seconds"])


def train(
    model: TweetClassifier,
    way: Way,
    texts: Texts,
    tokenizer: PreTrainedTokenizerBase,
    rng: np.random.Generator,
    arguments: argparse.Namespace,
) -> Mapping[str, torch.Tensor]:
    """Train a model on all labelled tweets, and return the moving average of its weights by name."""
    freeze(model, way.frozen)
    groups = groups_by_depth(model)
    optimizer = RAdam(groups, betas=BETAS, eps=EPSILON)
    steps = list(batches(texts, way, arguments.min_steps, rng))
    schedule = get_linear_schedule_with_warmup(optimizer, 0, len(steps))
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    average = {name: p.detach().clone() for name, p in weights.items()}
    loss_of, special = Loss(smoothing=SMOOTHING), torch.tensor(tokenizer.all_special_ids)
    model.train()
    for step, rows in enumerate(steps, start=1):
        ids, mask = padded([texts.train[row] for row in rows], tokenizer)
        if way.word_dropout:
            is_word = ~torch.isin(ids, special)
            ids = ids.where(~is_word | (torch.rand(ids.shape) >= way.word_dropout), tokenizer.mask_token_id)
        labels = torch.from_numpy(texts.labels[rows])
        targets = targets_of(labels, model.config.num_labels)
        state = features_of(model, ids, mask, bf16=arguments.bf16)
        masked = [model.classifier(functional.dropout(state, way.dropout)) for _ in range(way.masks)]
        loss = torch.stack([loss_of(logits, targets).mean() for logits in masked]).mean()
        if way.contrast:
            loss = (1 - way.contrast) * loss + way.contrast * contrastive(state, labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), MAX_NORM)
        optimizer.step()
        schedule.step()
        if way.average:
            for name, p in weights.items():
                average[name].lerp_(p.detach(), 1 - min(KEPT_OF_AVERAGE, step / (step + 9)))
    return average


def features_of(model: TweetClassifier, ids: torch.Tensor, mask: torch.Tensor, *, bf16: bool) -> torch.Tensor:
    """Return the head's features (n_tweets, width), float32, before dropout: as jobs do, bf16 ends at the head."""
    found = []
    handle = model.dropout.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        model(input_ids=ids, attention_mask=mask)
    handle.remove()
    return found[0].float()


def freeze(model: TweetClassifier, share: float) -> None:
    """Freeze the encoder's lowest layers and what is below them; nothing for a share of 0."""
    n_frozen = int(share * model.config.encoder_config().num_hidden_layers)
    for name, p in model.named_parameters():
        layer = LAYER.match(name)
        is_below = int(layer[1]) < n_frozen if layer else "embeddings" in name
        p.requires_grad_(not (n_frozen and is_below))


def groups_by_depth(model: TweetClassifier) -> list[dict]:
    """Return the optimizer's groups of the parameters that learn, by depth below the head, each with its rate."""
    names = [name for name, _ in model.named_parameters()]
    rate, groups = RATE * RATE_WIDTH / model.config.encoder_config().hidden_size, {}
    for (_, p), depth in zip(model.named_parameters(), layer_depths(names), strict=True):
        if p.requires_grad:
            groups.setdefault(depth, []).append(p)
    return [{"params": parameters, "lr": rate * LAYER_DECAY**depth} for depth, parameters in groups.items()]


def batches(texts: Texts, way: Way, min_steps: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the rows of each step: in an epoch all rare tweets, and `NEGATIVES` others for each, anew each time."""
    is_rare = np.isin(texts.labels, texts.positive)
    rare, others = np.flatnonzero(is_rare), np.flatnonzero(~is_rare)
    n_others = min(len(others), NEGATIVES * len(rare))
    n_steps = -(-(len(rare) + n_others) // BATCH)
    for _ in range(round(max(EPOCHS, -(-min_steps // n_steps)) * way.epochs)):
        shown = rng.permutation(np.concatenate([rare, rng.choice(others, n_others, replace=False)]))
        yield from (shown[start : start + BATCH] for start in range(0, len(shown), BATCH))


def contrastive(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the supervised contrastive loss of features (n_tweets, width), mean over tweets with a companion.

    Gunel et al. 2021, "Supervised Contrastive Learning for Pre-trained Language Model Fine-tuning", equation 3.
    """
    unit = functional.normalize(features, dim=1)
    itself = torch.eye(len(labels), dtype=torch.bool)
    log_p = (unit @ unit.T / TEMPERATURE).masked_fill(itself, -torch.inf).log_softmax(dim=1)
    is_companion = (labels[:, None] == labels) & ~itself
    counts = is_companion.sum(dim=1)
    of_tweet = -log_p.masked_fill(~is_companion, 0.0).sum(dim=1) / counts.clamp_min(1)
    return of_tweet.sum() / (counts > 0).sum().clamp_min(1)


@torch.inference_mode()
def predict(model: TweetClassifier, texts: Texts, tokenizer: PreTrainedTokenizerBase, *, bf16: bool) -> np.ndarray:
    """Return the rare labels' probabilities (n_test_tweets,) together."""
    model.eval()
    order = sorted(range(len(texts.test)), key=lambda row: len(texts.test[row]))
    rare = np.empty(len(order))
    for start in range(0, len(order), 64):
        rows = order[start : start + 64]
        ids, mask = padded([texts.test[row] for row in rows], tokenizer)
        logits = model.classifier(features_of(model, ids, mask, bf16=bf16))
        rare[rows] = logits.softmax(dim=1)[:, texts.positive].sum(dim=1).numpy()
    return rare


def padded(rows: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> tuple[torch.Tensor, torch.Tensor]:
    """Return word pieces (n_tweets, n_pieces) and their mask."""
    batch = tokenizer.pad({"input_ids": list(rows)}, return_tensors="pt")
    return batch["input_ids"], batch["attention_mask"]


def print_rows(
    found: Mapping[str, Sequence[np.ndarray]],
    seconds: Mapping[str, Sequence[float]],
    golds: Sequence[np.ndarray],
    n_seeds: int,
) -> None:
    """Print a row for each way, as Markdown: of single models, and of the mean of a draw's seeds."""
    rare = [int(gold.sum()) for gold in golds[::n_seeds]]
    print(f"\n{len(rare)} draws, {n_seeds} seeds; rare test tweets: {rare}\n")
    print("| | AP of one model | better by (lowest to highest) | AP of the seeds' mean | better by | time |")
    print("|---|---|---|---|---|---|")
    base_one, base_mean = precisions(found[RECIPE], golds, n_seeds)
    for name, models in found.items():
        one, mean = precisions(models, golds, n_seeds)
        times = np.median(np.divide(seconds[name], seconds[RECIPE])) if name in seconds else 1.0
        gain = one - base_one
        print(
            f"| {name} | {one.mean():.3f} | {gain.mean():+.3f} ({gain.min():+.3f} to {gain.max():+.3f}) | "
            f"{mean.mean():.3f} | {(mean - base_mean).mean():+.3f} | {times:.1f} x |"
        )


def precisions(
    models: Sequence[np.ndarray], golds: Sequence[np.ndarray], n_seeds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the average precision of each model (n_draws * n_seeds,), and of each draw's mean of them (n_draws,)."""
    one = [average_precision_score(gold, rare) for gold, rare in zip(golds, models, strict=True)]
    starts = range(0, len(models), n_seeds)
    mean = [average_precision_score(golds[i], np.mean(models[i : i + n_seeds], axis=0)) for i in starts]
    return np.array(one), np.array(mean)


if __name__ == "__main__":
    main()
