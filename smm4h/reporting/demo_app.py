"""A page that labels one text: its label, all labels' probabilities, and the words that carried the label.

`smm4h demo` opens it for a job on this machine. `publish.py --space` copies this file as the app.py of a Space, so that
it needs nothing of this project. What is typed in is neither stored nor logged.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio reads it

import gradio as gr

SETTINGS = "demo.json"  # beside app.py: a model's name, and the fields of `Page`
EXPLAINED = 60  # words of a text that are left out in turn; of the rest, none
SIGNS = re.compile(r"\S+")
ABOUT = "Nothing that is typed here is stored or logged. A label is a model's guess, not a diagnosis."

Item = dict[str, str]  # `text`, and `text_pair` and `group` where the task has them
Classify = Callable[[Sequence[Item]], list[tuple[str, dict[str, float]]]]  # label and probabilities of each item


@dataclass(frozen=True)
class Page:
    """What the page says around the model.

    Args:
        title: headline.
        about: what is looked for.
        meanings: of labels that need an explanation.
        context: what a second text is, such as `claim`; empty where there is none.
        group: what a group is, such as `language`; empty where there is none.
        decision: how the label follows from the probabilities, where it need not be the likeliest one.
    """

    title: str
    about: str = ""
    meanings: dict[str, str] = field(default_factory=dict)
    context: str = ""
    group: str = ""
    decision: str = ""

    def named(self, label: str) -> str:
        """Return a label with its meaning."""
        return f"{label} ({self.meanings[label]})" if label in self.meanings else label


def spans_of(text: str) -> list[tuple[int, int]]:
    """Return begin and end of each word of a text."""
    return [match.span() for match in SIGNS.finditer(text)]


def carried(classify: Classify, item: Item) -> list[tuple[str, float | None]]:
    """Return the text in pieces, each with how far the label's probability falls without it; None: not left out.

    Importance by erasure: Li, Monroe & Jurafsky 2016, "Understanding neural networks through representation erasure".
    """
    text, spans = item["text"], spans_of(item["text"])[:EXPLAINED]
    without = [{**item, "text": (text[:start] + text[end:]).strip()} for start, end in spans]
    (label, whole), *others = classify([item, *without])
    pieces, last = [], 0
    for (start, end), (_, probabilities) in zip(spans, others, strict=True):
        pieces += [(text[last:start], None), (text[start:end], whole[label] - probabilities[label])]
        last = end
    return [piece for piece in [*pieces, (text[last:], None)] if piece[0]]


def shades(pieces: Sequence[tuple[str, float | None]]) -> list[tuple[str, float | None]]:
    """Return pieces with weights from -1 to 1, as the page colours them: the heaviest has 1 or -1."""
    heaviest = max((abs(weight) for _, weight in pieces if weight is not None), default=0) or 1
    return [(piece, None if weight is None else weight / heaviest) for piece, weight in pieces]


def build(classify: Classify, page: Page) -> gr.Blocks:
    """Return the page as a Gradio app, to be launched."""

    def item_of(text: str, context: str, group: str) -> Item:
        if not text.strip():
            raise gr.Error("Type a text first.")
        further = {"text_pair": context if page.context else "", "group": group if page.group else ""}
        return {"text": text, **{name: value for name, value in further.items() if value}}

    def answer(text: str, context: str, group: str) -> Iterator[tuple]:
        """Yield label and probabilities at once, then the words, which take a prediction each."""
        item = item_of(text, context, group)
        ((label, probabilities),) = classify([item])
        shown = page.named(label), {page.named(name): value for name, value in probabilities.items()}
        yield *shown, []
        yield *shown, shades(carried(classify, item))

    with gr.Blocks(title=page.title, analytics_enabled=False) as app:
        gr.Markdown(f"# {page.title}\n\n{page.about}\n\n{ABOUT} {page.decision}".rstrip())
        text = gr.Textbox(label="Text", lines=3, max_length=5000)
        context = gr.Textbox(label=page.context.capitalize(), visible=bool(page.context))
        group = gr.Textbox(label=page.group.capitalize(), visible=bool(page.group))
        button = gr.Button("Label it", variant="primary")
        label = gr.Textbox(label="Label", interactive=False)
        probabilities = gr.Label(label="Probabilities", show_heading=False)
        words = gr.HighlightedText(label="Words that carried the label (red), or spoke against it (blue)")
        gr.on(
            [button.click, text.submit],
            answer,
            [text, context, group],
            [label, probabilities, words],
            api_visibility="private",
        )
    return app


def launch(app: gr.Blocks, **options) -> None:
    """Serve the app without a public link, telemetry or a history of what was typed."""
    app.launch(share=False, run_history=False, footer_links=[], ssr_mode=False, **options)


def published(name: str) -> Classify:
    """Return the predictions of a published ensemble or classifier; a private one needs the Space's secret HF_TOKEN."""
    from transformers import pipeline

    predict = pipeline("text-classification", name, trust_remote_code=True, token=os.environ.get("HF_TOKEN"))

    def classify(items: Sequence[Item]) -> list[tuple[str, dict[str, float]]]:
        ranked = predict([dict(item) if len(item) > 1 else item["text"] for item in items], top_k=None)
        return [(row[0]["label"], {one["label"]: one["score"] for one in row}) for row in ranked]

    return classify


if __name__ == "__main__":
    settings = json.loads(Path(__file__).with_name(SETTINGS).read_text(encoding="utf-8"))
    beside = Path(__file__).parent / settings["model"]
    name = str(beside) if beside.is_dir() else settings["model"]
    launch(build(published(name), Page(**{key: value for key, value in settings.items() if key != "model"})))
