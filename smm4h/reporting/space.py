"""A Space: a folder that shows a published model as a page, on the Hub or on any machine with Gradio.

    README.md  app.py  demo.json  requirements.txt

The page loads the model by its name, so that nothing of this project is needed. No file contains tweets.
"""

import importlib.metadata
import json
import shutil
from pathlib import Path

from huggingface_hub import SpaceCard, SpaceCardData

from smm4h.config.task import Task
from smm4h.reporting.hub import is_hub_name
from smm4h.utils.errors import InputError
from smm4h.utils.files import read_json, write_json, write_text

GRADIO = "6.31.0"  # the version that requirements-dev.txt tests; the Hub builds the Space with it
SPACE_FILES = ("README.md", "app.py", "demo.json", "requirements.txt")
LIBRARIES = ("torch", "transformers", "numpy", "safetensors")
HOW = """# {title}

{about} The page loads [{model}]({address}) by its name, and needs none of the code that trained it.

{private}Nothing that is typed in is stored or logged. On another machine: `pip install "gradio=={gradio}" -r
requirements.txt`, then `python app.py`.
"""
DECIDED = "The label need not be the likeliest one: how probable each label must be was {chosen}."
PRIVATE = "While the model is private, give the Space a secret `HF_TOKEN` that may read it.\n\n"


def import_app():
    """Return the module `demo_app`; raise `InputError` without Gradio."""
    try:
        from smm4h.reporting import demo_app
    except ImportError as error:
        if (error.name or "").split(".")[0] != "gradio":
            raise
        raise InputError('a demo needs gradio, which is not here: pip install "smm4h[demo]"') from None
    return demo_app


def check_one_label(name: str, *, gives_sets: bool) -> None:
    """Raise `InputError` for a model that gives a text several labels."""
    if gives_sets:
        raise InputError(f"{name} gives a text several labels, which a demo does not show; use predict.py")


def page_fields(task: Task, rule: dict | None) -> dict:
    """Return the fields of `demo_app.Page` for a task.

    Args:
        rule: the content of a `VotingRule`; None: of an earlier version or a classifier, whose likeliest label counts.
    """
    rule = rule or {}
    is_weighted = any(weight != 1 for row in rule.get("decision", []) for weight in row)
    return {
        "title": task.name,
        "about": f"Finds {task.about}." if task.about else "",
        "meanings": task.meanings,
        "context": task.context,
        "group": task.by if rule.get("cuts") else "",
        "decision": DECIDED.format(chosen=rule["chosen"]) if is_weighted and "chosen" in rule else "",
    }


def write_space(folder: Path, model: str, published: Path, task: Task, license: str | None) -> list[Path]:
    """Write the Space of a published model into an empty folder, and return its files.

    Args:
        model: the model's name on the Hub, or its folder as seen from the Space's.
        published: the folder with the model's files.
    """
    check_one_label(model, gives_sets=task.multi_label is not None)
    config = read_json(published / "config.json")
    fields = page_fields(task, config.get("rule"))
    shutil.copyfile(Path(__file__).with_name("demo_app.py"), folder / "app.py")
    write_json(folder / "demo.json", {"model": model, **fields})
    write_text(folder / "requirements.txt", "".join(f"{line}\n" for line in requirements(config)))
    _card(model, fields, license).save(folder / "README.md")
    return [folder / name for name in SPACE_FILES]


def requirements(config: dict) -> list[str]:
    """Return the packages that a published model needs, in the versions that made it.

    Args:
        config: the content of its config.json.
    """
    lines = [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in LIBRARIES]
    adapters = [adapter for member in config.get("members", ()) if (adapter := member.get("model", {}).get("adapter"))]
    packages = ["peft"] if adapters else []
    packages += ["bitsandbytes"] if any(adapter["quantise"] for adapter in adapters) else []
    lines += [f"{name}=={importlib.metadata.version(name)}" for name in packages]
    return [*lines, "emoji==0.6.0"] if '"bertweet"' in json.dumps(config) else lines


def _card(model: str, fields: dict, license: str | None) -> SpaceCard:
    """Return the Space's README with the metadata by which the Hub builds it."""
    on_hub = is_hub_name(model)
    data = SpaceCardData(
        **{"title": fields["title"], "emoji": "💬", "colorFrom": "blue", "colorTo": "green", "sdk": "gradio"},
        **{"sdk_version": GRADIO, "app_file": "app.py", "license": license, "models": [model] if on_hub else None},
    )
    text = HOW.format(
        title=fields["title"],
        about=fields["about"],
        model=Path(model).name,
        address=f"https://huggingface.co/{model}" if on_hub else model,
        private=PRIVATE if on_hub else "",
        gradio=GRADIO,
    )
    return SpaceCard(f"---\n{data.to_yaml()}\n---\n\n{text}")
