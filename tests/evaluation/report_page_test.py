"""Tests of the report's page, without a browser."""

import base64
import hashlib
import itertools
import re
from html.parser import HTMLParser

import pytest

from famjax.evaluation.report.markup import Html, anchor, element
from famjax.evaluation.report.writing import write_report
from report_scans import bswa, cell, demo_cells, failed, write_scan

# Elements without an end tag.
EMPTY = {"br", "img", "meta"}


class Page(HTMLParser):
    """The elements of a page, with the errors of its nesting."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], {}
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def all(self, tag):
        """The attributes of each element of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The page of the demo's cells."""
    folder = tmp_path_factory.mktemp("demo")
    scan = write_scan(folder / "scan", demo_cells(), "ScanJob.lengths = (256, 512, 1024)\n")
    return write_report([str(scan)], str(folder), trained_lengths=(64, 256), title="Two models").html.read_text("utf-8")


@pytest.fixture
def page_of(tmp_path):
    """Writes a report of these cells and returns its page."""

    def write(cells, config="", **options):
        scan = write_scan(tmp_path / "scan", cells, config)
        return write_report([str(scan)], str(tmp_path / "out"), **options).html.read_text(encoding="utf-8")

    return write


def test_the_page_needs_nothing_else(demo):
    """Guards against a page that loads something: it opens offline, and tells nobody that it was read."""
    page = Page(demo)
    assert not {"link", "iframe", "object", "base", "video"} & {tag for tag, _ in page.elements}
    sources = [attributes["src"] for attributes in page.all("img")]
    assert len(sources) == 6
    for source in sources:
        svg = base64.b64decode(source.removeprefix("data:image/svg+xml;base64,")).decode()
        names = set(re.findall(r'https?://[^"\s]+', svg))
        assert names <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names of SVG itself
    assert not any("src" in attributes for attributes in page.all("script"))
    assert "http:" not in demo
    assert "https:" not in demo
    assert "@import" not in demo
    assert "url(" not in demo


def test_the_policy_allows_the_page_alone(demo):
    """Guards against a script from the results that runs, and against a policy that stops the page's own."""
    page = Page(demo)
    (policy,) = (attributes["content"] for attributes in page.all("meta") if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe" not in policy
    for kind in ("script", "style"):
        (content,) = page.texts[kind]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    # What the policy forbids, the page does not have.
    assert not any(name == "style" or name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_texts_of_the_results_are_no_html(page_of):
    """Guards against a task or an error that ends an element and begins a script."""
    evil = "</td><script>alert(1)</script><img src=x onerror=alert(1)>\"'&\x00"
    cells = [
        cell(model=evil, task=evil, checkpoint=evil),
        failed(evil, model=evil, task=evil, checkpoint=evil, length=512),
    ]
    text = page_of(cells, config=f"# </pre>{evil}", title=evil)
    assert "<script>alert" not in text
    assert "onerror=alert(1)>" not in text
    assert "\x00" not in text
    page = Page(text)
    assert len(page.all("script")) == 1
    assert all(attributes["src"].startswith("data:image/svg+xml;base64,") for attributes in page.all("img"))
    assert evil.replace("\x00", "\ufffd") in "".join(page.texts["h1"])


def test_those_who_cannot_see_it_can_read_it(demo):
    """Guards against pictures without words, tables without headings, and links that lead nowhere."""
    page = Page(demo)
    assert page.all("html") == [{"lang": "en"}]
    assert all(len(attributes["alt"]) > 40 for attributes in page.all("img"))
    assert page.all("th")
    assert all(attributes["scope"] in {"col", "row"} for attributes in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for attributes in page.all("a")]
    assert links
    assert {link.removeprefix("#") for link in links} <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_the_page_says_everything(demo):
    """Guards against a section that is lost: summary, values with intervals, failures, cuts, settings, repetition."""
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", demo.partition("<body>")[2].partition("<script>")[0]))
    for expected in (
        "Two models 2 models, 2 tasks, 3 lengths and 2 depths: 18 cells of 16 examples; 1 failed.",
        "The training had texts of 64 to 256 tokens.",
        "passkey: FAM holds up longest, to 1,024 tokens, the longest length evaluated, 4 times the longest text",
        "books: FAM 0.38 and BSWA 0.38 (token accuracy).",
        "0.88 [0.72, 0.95]",
        "1 cell: length 1,024; depth 1.0; seed 0; step 100 RuntimeError: out of memory",
        "12 of 32 prompts were cut by 3,100 tokens",
        "runs/fam/checkpoint_100 50, 100 123,456 64 0 8",
        "famjax --run_mode=scan --gin_file=config.gin",
        "ScanJob.lengths = (256, 512, 1024)",
    ):
        assert expected in words, expected


def test_one_row_for_each_cell(demo):
    """Guards against cells that the page leaves out: those of earlier training steps, and those that failed."""
    (table,) = re.findall(r'<table class="every sortable">.*?</table>', demo, re.DOTALL)
    assert table.count("<tr>") == 1 + len(demo_cells())
    assert table.count(">failed<") == 1


def test_two_tasks_of_similar_names(page_of):
    """Guards against two sections with one id."""
    Page(page_of([cell(task="a b"), cell(task="a-b")]))
    taken = set()
    assert [anchor(name, taken) for name in ("a b", "a-b", "A B", "§")] == ["a-b", "a-b-2", "a-b-3", "section"]


def test_markup_escapes_by_construction():
    """Guards against a text that becomes HTML because somebody forgot to escape it."""
    made = element("td", "<b>", element("br"), ["&", Html("<i></i>")], class_='"x"', hidden=True, title=None)
    assert made == '<td class="&quot;x&quot;" hidden>&lt;b&gt;<br>&amp;<i></i></td>'


def test_models_that_share_nothing(page_of):
    """Guards against a traceback where a model lacks a task that another has."""
    Page(page_of([cell(), bswa(task="other", length=512), cell(task="arc", length=None, seed=None)]))
