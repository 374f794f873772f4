"""report.html: complete, self-contained, accessible, and harmless whatever the tweets say."""

import http.server
import json
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass, replace
from functools import partial
from html.parser import HTMLParser

import pytest
from conftest import INVENTED, ExampleJob, job_words, recipe_of, train_here

from smm4h.cli.report import main
from smm4h.data.readers.formats import read_tsv
from smm4h.inference.finished_job import FinishedJob

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=5000",
]
ATTACK = "<script>alert(1)</script><img src=x onerror=alert(2)> my daughter was born with gastroschisis"


class Page(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(content)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def attacked_job(tiny_encoder, tmp_path_factory) -> ExampleJob:
    """A job whose label issues are tweets that are code: a rare tweet's text under the common label."""
    folder = tmp_path_factory.mktemp("attacked")
    table = read_tsv(INVENTED / "task5_training.tsv", None)
    rows = [list(row) for row in zip(*table.columns, strict=True)]
    rare = [row for row in rows if row[3] in ("1", "2")]
    common = [row for row in rows if row[3] == "3"][:120]
    planted = [[f"90000000{n}", "u", f"{ATTACK} {n}", "1" if n else "3"] for n in range(9)]
    lines = ["\t".join(row) for row in [table.names, *rare, *common, *planted]]
    (folder / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    recipe = recipe_of(folder, words="{classifier: tfidf-logistic}", more="{classifier: tfidf-svm}")
    flags = {"train_file": folder / "train.tsv", "max_train_samples": 500}
    words = job_words(tiny_encoder, folder / "out", recipe=recipe, **flags)
    result = train_here(words)
    assert result.code == 0, result.err
    return ExampleJob(folder / "out", words, result)


@dataclass
class Report:
    """A job's report, and its scores by name."""

    page: Page
    scores: dict


@pytest.fixture(scope="module")
def report(either_job) -> Report:
    content = (either_job.folder / "report.html").read_text(encoding="utf-8")
    return Report(Page(content), json.loads((either_job.folder / "scores.json").read_text()))


def test_every_job_writes_the_report_and_the_command_writes_the_same_bytes(tuned_job, tmp_path, call):
    shutil.copytree(tuned_job.folder, tmp_path / "job")
    content = (tmp_path / "job" / "report.html").read_bytes()
    (tmp_path / "job" / "report.html").unlink()
    result = call(main, tmp_path / "job")
    assert result.code == 0, result.err
    assert (tmp_path / "job" / "report.html").read_bytes() == content
    assert f"{tuned_job.folder / 'report.html'}" in tuned_job.result.out


def test_the_report_has_the_scores_of_scores_json(report):
    text = report.page.text
    for name, parts in report.scores.items():
        assert name in text
        assert f"{parts['out_of_fold']['f1']:.3f}" in text
        assert f"{parts['test']['f1']:.3f}" in text
    assert "Bai & Zhou" not in text  # whose score is of the official test tweets, not of 40 invented ones


def test_published_scores_stand_only_beside_those_on_the_official_test_tweets(tuned_job):
    job = FinishedJob.read(tuned_job.folder)
    assert job.published == {}
    of_40_tweets = replace(job, task=replace(job.task, official_test_rows=40))
    assert of_40_tweets.published["Bai & Zhou 2020"] == 0.69


def test_all_parts_of_the_report_score_members_by_one_decision(either_job):
    scores = json.loads((either_job.folder / "scores.json").read_text())
    evaluation = json.loads((either_job.folder / "appraisal.json").read_text())
    alone = [scores.get(name, scores.get(f"{name} *"))["out_of_fold"]["f1"] for name in evaluation["without"]]
    assert (evaluation["by_number"][0]["lowest"], evaluation["by_number"][0]["highest"]) == (min(alone), max(alone))
    for score, by_fold in zip(alone, evaluation["by_fold"].values(), strict=True):
        assert min(by_fold) - 1e-9 <= score <= max(by_fold) + 1e-9  # micro F1 lies between those of its folds


def test_the_report_lists_errors_by_id_with_the_meaning_of_labels(report, either_job):
    lines = (either_job.folder / "errors.tsv").read_text(encoding="utf-8").splitlines()[1:31]
    assert lines
    for line in lines:
        assert line.split("\t")[2] in report.page.text
    assert "2 (possible defect)" in report.page.text
    anchors = [attributes["href"] for tag, attributes in report.page.tags if tag == "a"]
    ids = {attributes.get("id") for _, attributes in report.page.tags}
    assert "#errors" in anchors
    assert {anchor.removeprefix("#") for anchor in anchors} <= ids


def test_the_report_has_every_labels_scores_and_what_recalls_cost(report, either_job):
    evaluation = json.loads((either_job.folder / "appraisal.json").read_text())
    for part in ("out_of_fold", "test"):
        for scores in evaluation["classes"][part].values():
            low, high = scores["recall"]["interval"]
            assert f"{scores['recall']['value']:.3f} ({low:.3f} to {high:.3f})" in report.page.text
        for row in evaluation["operating_points"]:
            assert f"{1000 * row[part]['flagged']['value']:.0f} (" in report.page.text


def test_every_picture_has_a_text_that_says_what_it_shows(report):
    pictures = [attributes for tag, attributes in report.page.tags if tag == "img"]
    assert len(pictures) >= 11
    final = next(parts for name, parts in report.scores.items() if name.startswith("final vote"))
    assert all(len(picture["alt"]) > 20 for picture in pictures)
    assert f"final vote {final['out_of_fold']['f1']:.3f} out of fold" in pictures[0]["alt"]


def test_the_report_loads_nothing_and_has_no_script(report):
    assert not [tag for tag, _ in report.page.tags if tag in ("script", "link", "iframe", "object")]
    for tag, attributes in report.page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "srcset"):
                assert value.startswith(("data:image/svg+xml;base64,", "#")), (tag, name)


@pytest.mark.slow
def test_a_tweet_that_is_code_is_shown_as_text(attacked_job):
    content = (attacked_job.folder / "report.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in content
    page = Page(content)
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert ATTACK in page.text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tuned_job", "attacked_job"])
@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_in_a_browser_nothing_overflows_runs_or_fails(request, tmp_path, width, name):
    """Measured by a script in a page around it, whose frame has that width."""
    shutil.copy(request.getfixturevalue(name).folder / "report.html", tmp_path / "report.html")
    measure = """
        window.alert = text => { document.title = "alert " + text };
        const frame = document.querySelector("iframe");
        frame.onload = () => {
          const page = frame.contentDocument, root = page.documentElement;
          frame.contentWindow.alert = window.alert;
          const broken = [...page.images].filter(image => !image.complete || image.naturalWidth === 0).length;
          const out = document.querySelector("pre");
          out.textContent = JSON.stringify({
            width: root.clientWidth, scroll: root.scrollWidth, images: page.images.length, broken: broken,
            smallest: Math.min(...[...page.images].map(image => image.width)), title: document.title});
        };"""
    frame = f'<iframe src="report.html" style="width: {width}px; height: 800px; border: 0"></iframe>'
    (tmp_path / "measure.html").write_text(f"<title>calm</title>{frame}<pre></pre><script>{measure}</script>")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/measure.html"
        flags = [*QUIET, f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--dump-dom"]
        done = subprocess.run([BROWSER, *flags, address], capture_output=True, text=True, timeout=120)
        server.shutdown()
    measured = json.loads(re.search(r"<pre>(.*)</pre>", done.stdout)[1])
    assert measured["scroll"] <= measured["width"], measured
    assert measured["width"] >= width - 20
    assert measured["images"] >= 8
    assert measured["broken"] == 0
    assert measured["smallest"] >= min(300, width - 60)
    assert measured["title"] == "calm"
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not [line for line in complaints if "report.html" in line], complaints
