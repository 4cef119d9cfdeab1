"""The report's page in a real browser: it shows what it has, loads nothing, and its script makes no error."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess

import pytest

from famjax.evaluation.report.writing import write_report
from report_scans import demo_cells, write_scan

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=10000",
    "--dump-dom",
)

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no browser: neither chromium nor chromium-browser nor google-chrome is on the PATH"
)

# Runs before the page's own script, and writes what it has seen into the document.
PROBE = """
const seen = {errors: [], violations: []};
addEventListener("error", (event) => seen.errors.push(event.message || event.target.outerHTML.slice(0, 80)), true);
addEventListener("unhandledrejection", (event) => seen.errors.push(String(event.reason)));
document.addEventListener("securitypolicyviolation", (event) =>
  seen.violations.push(event.violatedDirective + " " + event.blockedURI));
const column = (table, index) =>
  [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[index].textContent.trim());
const use = () => {
  const table = document.querySelector("table.every");
  const [model, task] = document.querySelectorAll(".filters select");
  const click = (index) => table.tHead.rows[0].cells[index].querySelector("button").click();
  click(2);
  seen.lengths = column(table, 2);
  seen.unsorted = column(table, 7);
  click(7);
  seen.ascending = column(table, 7);
  click(7);
  seen.descending = column(table, 7);
  seen.direction = table.tHead.rows[0].cells[7].getAttribute("aria-sort");
  model.value = "=BSWA";
  task.value = "=passkey";
  model.dispatchEvent(new Event("change"));
  seen.filtered = [new Set(column(table, 0)), new Set(column(table, 1))].map((values) => [...values]);
  seen.count = document.querySelector(".filters output").textContent;
};
addEventListener("load", async () => {
  try { use(); } catch (error) { seen.errors.push(String(error)); }
  const images = [...document.images];
  await Promise.all(images.map((image) => image.decode().catch(() => seen.errors.push("not decoded: " + image.alt))));
  seen.widths = images.map((image) => image.naturalWidth);
  seen.tables = [...document.querySelectorAll("table")].map((table) => table.tBodies[0].rows.length);
  seen.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  seen.theme = getComputedStyle(document.body).backgroundColor;
  const result = document.createElement("pre");
  result.id = "probe";
  result.textContent = JSON.stringify(seen);
  document.body.append(result);
});
"""


def digest_of(content):
    """As a policy names a script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def look_at(text, folder, *flags):
    """Opens a page in the browser, and returns what the probe has seen."""
    assert text.count("script-src ") == text.count("<style>") == 1
    text = text.replace("script-src ", f"script-src '{digest_of(PROBE)}' ")
    text = text.replace("<style>", f"<script>{PROBE}</script><style>")
    file = folder / "report.html"
    file.write_text(text, encoding="utf-8")
    command = [BROWSER, *FLAGS, *flags, f"--user-data-dir={folder / 'profile'}", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    (found,) = re.findall(r'<pre id="probe">(.*?)</pre>', done.stdout)
    return json.loads(html.unescape(found))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of the demo's cells."""
    folder = tmp_path_factory.mktemp("report")
    return write_report([str(write_scan(folder, demo_cells()))], str(folder)).html.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def seen(page, tmp_path_factory):
    """What the probe has seen of it."""
    return look_at(page, tmp_path_factory.mktemp("browser"))


def test_the_page_opens(seen):
    """Guards against a page that only looks right in its source: tables, pictures, script and policy work."""
    assert seen["errors"] == []
    assert seen["violations"] == []
    assert len(seen["widths"]) == 6
    assert all(width > 300 for width in seen["widths"])
    assert max(seen["tables"]) == len(demo_cells())
    assert seen["overflow"] == 0


def test_cells_are_sorted_and_filtered(seen):
    """Guards against 1,024 before 256, a failed cell in the middle, and a filter that hides the wrong rows."""
    lengths = [int(length.replace(",", "")) for length in seen["lengths"]]
    assert lengths == sorted(lengths)
    assert {256, 1024} < set(lengths)
    values = [float(value) for value in seen["unsorted"] if value]
    assert values != sorted(values)
    assert [float(value) for value in seen["ascending"][:-1]] == sorted(values)
    assert [float(value) for value in seen["descending"][:-1]] == sorted(values, reverse=True)
    assert seen["ascending"][-1] == seen["descending"][-1] == ""
    assert seen["direction"] == "descending"
    assert seen["filtered"] == [["BSWA"], ["passkey"]]
    assert seen["count"] == f"6 of {len(demo_cells())} cells"


def test_dark_and_narrow(page, tmp_path):
    """Guards against a page that ignores the dark theme, or is wider than a small window."""
    dark = look_at(page, tmp_path, "--blink-settings=preferredColorScheme=0", "--window-size=500,900")
    assert dark["theme"] == "rgb(20, 24, 29)"
    assert dark["overflow"] == 0
    assert dark["errors"] == []


def test_an_error_of_the_script_is_seen(page, tmp_path):
    """Guards against a browser test that passes whatever the script does."""
    (script,) = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    faulty = f"{script}noSuchFunction();"
    text = page.replace(script, faulty).replace(digest_of(script), digest_of(faulty))
    assert any("noSuchFunction is not defined" in error for error in look_at(text, tmp_path)["errors"])


def test_a_broken_picture_is_seen(page, tmp_path):
    """Guards against a browser test that passes whatever the pictures are, or whatever the page loads."""
    start = page.index("base64,") + 400
    text = page[:start] + "AAAA" + page[start + 4 :]
    outside = look_at(text.replace("<main>", '<main><img src="https://example.invalid/a.png" alt="">'), tmp_path)
    assert outside["widths"][:2] == [0, 0]
    assert outside["widths"][2] > 300
    assert any(error.startswith("not decoded: exact match on passkey") for error in outside["errors"])
    assert outside["violations"] == ["img-src https://example.invalid/a.png"]
