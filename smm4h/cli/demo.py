"""A finished job's ensemble, a published one or a student -> a page on this machine that labels what is typed in.

smm4h demo runs/task5
smm4h demo me/task5-ensemble --port 8080 --open

It shows the label, every label's probability, and the words that carried the label: each word is left out in turn. Only
this machine can open the page, nothing typed in is stored or logged, and Ctrl-C ends it.
"""

import argparse
from collections.abc import Sequence

from smm4h.cli.flags import CommandParser
from smm4h.utils.errors import InputError


def main(words: Sequence[str] | None = None) -> None:
    arguments = read_arguments(words)

    from smm4h.reporting.space import import_app
    from smm4h.utils.console import silence_libraries

    demo = import_app()
    silence_libraries()
    app = build_app(arguments.model)
    print(f"open http://127.0.0.1:{arguments.port} in a browser; Ctrl-C ends the demo", flush=True)
    try:
        demo.launch(app, server_name="127.0.0.1", server_port=arguments.port, inbrowser=arguments.open, quiet=True)
    except OSError:
        raise InputError(f"--port {arguments.port} is taken by another program; name another one") from None


def build_app(model: str):
    """Return the page of a job's folder, a published ensemble or a student, as a Gradio app."""
    from smm4h.inference.predictor import load_predictor
    from smm4h.models.label_spaces import space_of
    from smm4h.reporting.space import check_one_label, import_app, page_fields
    from smm4h.utils.devices import default_device

    demo = import_app()
    predictor, task, _ = load_predictor(model, default_device())
    check_one_label(model, gives_sets=space_of(predictor.rule, task.labels).problem_type is not None)

    def classify(items: Sequence[dict[str, str]]) -> list[tuple[str, dict[str, float]]]:
        contexts = [item.get("text_pair", "") for item in items] if task.context else None
        groups = [item.get("group", "") for item in items]
        output = predictor.predict([item["text"] for item in items], groups, contexts)
        rows = zip(output.predicted, output.probabilities.tolist(), strict=True)
        return [(task.labels[index], dict(zip(task.labels, row, strict=True))) for index, row in rows]

    return demo.build(classify, demo.Page(**page_fields(task, predictor.rule.to_dict())))


def read_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("model", help="a finished job's or a student's folder, or the folder or Hub name of a published model")
    add("--port", type=int, default=7860, help="of the page's address (default: 7860)")
    add("--open", action="store_true", help="open the page in this machine's browser")
    arguments = parser.parse(words)
    if not 1 <= arguments.port <= 65535:
        raise InputError(f"--port {arguments.port} is no port; name a number from 1 to 65535")
    return arguments
