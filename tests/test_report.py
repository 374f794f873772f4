"""report.html: complete, self-contained, for every eye, and harmless whatever the tweets say."""

import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from html.parser import HTMLParser

import pytest
from conftest import QUICKSTART, job_words, recipe_of, shell

import report
from smm4h.data.readers import read_tsv

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
def attacked(tiny_encoder, tmp_path_factory):
    """A job whose doubtful labels hold a tweet that is code: a rare tweet's text under the common label."""
    folder = tmp_path_factory.mktemp("attacked")
    table = read_tsv(QUICKSTART / "task5_training.tsv", None)
    rows = [list(row) for row in zip(*table.columns, strict=True)]
    rare = [row for row in rows if row[3] in ("1", "2")]
    common = [row for row in rows if row[3] == "3"][:120]
    planted = [[f"90000000{n}", "u", f"{ATTACK} {n}", "1" if n else "3"] for n in range(9)]
    lines = ["\t".join(row) for row in [table.names, *rare, *common, *planted]]
    (folder / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = job_words(tiny_encoder, folder / "out", "--train_file", folder / "train.tsv")
    words[0] = recipe_of(folder, words="{classifier: tfidf-logistic}", more="{classifier: tfidf-svm}")
    words[words.index("--max_train_samples") + 1] = "500"
    outcome = shell(sys.executable, "run_classification.py", *words)
    assert outcome.code == 0, outcome.err
    return folder / "out"


@pytest.fixture(scope="module", params=["finished_job", "tuned_job"])
def page(request):
    folder = request.getfixturevalue(request.param).folder
    return folder, Page((folder / "report.html").read_text(encoding="utf-8"))


def test_every_job_ends_with_it_and_the_script_makes_the_same(tuned_job, tmp_path, call):
    shutil.copytree(tuned_job.folder, tmp_path / "job")
    made = (tmp_path / "job" / "report.html").read_bytes()
    (tmp_path / "job" / "report.html").unlink()
    outcome = call(report.main, tmp_path / "job")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "job" / "report.html").read_bytes() == made
    assert f"{tuned_job.folder / 'report.html'}" in tuned_job.outcome.out


def test_its_scores_are_those_of_scores_json(page):
    folder, page = page
    for name, of in json.loads((folder / "scores.json").read_text()).items():
        assert name in page.text
        assert f"{of['out_of_fold']['f1']:.3f}" in page.text
        assert f"{of['test']['f1']:.3f}" in page.text
    assert "0.690" in page.text  # the paper's


def test_every_picture_says_what_it_shows(page):
    folder, page = page
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) >= 11
    scores = json.loads((folder / "scores.json").read_text())
    final = next(of for name, of in scores.items() if name.startswith("final vote"))
    assert all(len(picture["alt"]) > 20 for picture in pictures)
    assert f"final vote {final['out_of_fold']['f1']:.3f} out of fold" in pictures[0]["alt"]


def test_it_needs_nothing_from_elsewhere_and_has_no_script(page):
    _, page = page
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object")]
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "srcset"):
                assert value.startswith("data:image/svg+xml;base64,"), (tag, name)


def test_a_tweet_that_is_code_is_shown_as_text(attacked):
    content = (attacked / "report.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in content
    page = Page(content)
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert ATTACK in page.text


@pytest.mark.parametrize("name", ["tuned_job", "attacked"])
@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_in_a_browser_nothing_overflows_runs_or_fails(request, tmp_path, width, name):
    """Measured from within: a frame of that width, and what its document says of itself."""
    found = request.getfixturevalue(name)
    folder = getattr(found, "folder", found)
    shutil.copy(folder / "report.html", tmp_path / "report.html")
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
        words = [
            BROWSER,
            *QUIET,
            f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr",
            "--dump-dom",
            address,
        ]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        server.shutdown()
    found = json.loads(re.search(r"<pre>(.*)</pre>", done.stdout)[1])
    assert found["scroll"] <= found["width"], found
    assert found["width"] >= width - 20
    assert found["images"] >= 8
    assert found["broken"] == 0
    assert found["smallest"] >= min(300, width - 60)
    assert found["title"] == "calm"
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not [line for line in console if "report.html" in line], console


def test_an_unfinished_job_is_told_so(tuned_job, tmp_path, call):
    shutil.copytree(tuned_job.folder, tmp_path / "job")
    (tmp_path / "job" / "svm" / "fold-1" / "DONE").unlink()
    outcome = call(report.main, tmp_path / "job")
    assert outcome.code == 2
    assert "1 runs are missing (svm/fold-1, ...); give the job's command" in outcome.err
