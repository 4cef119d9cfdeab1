"""The report as one HTML page that needs nothing else: pictures, style and script are in it."""

import base64
import hashlib
import importlib.resources
from collections.abc import Iterable, Iterator, Sequence

from famjax.evaluation.report.contents import Contents, TaskResults
from famjax.evaluation.report.drawing import Picture
from famjax.evaluation.report.formatting import listed, words
from famjax.evaluation.report.html_tables import cells_html, points_html, text_html
from famjax.evaluation.report.markup import Html, anchor, element, joined
from famjax.evaluation.report.summary import explanation, sentence
from famjax.evaluation.report.tables import (
    TextTable,
    cut_table,
    failure_table,
    length_table,
    model_table,
    score_table,
    step_table,
    summary_table,
)
from famjax.plurals import counted

# "{bars}" is _BARS where there are any.
_BARS = ", bars 95 % confidence intervals"
_CAPTIONS = {
    "accuracy": "By length. Dots are means{bars}, set apart sideways so that all are seen.",
    "heatmap": "By length and depth: where in the text what is asked for lies, 0 % at its beginning. Bright is better.",
    "positions": "By position in the longest documents that were evaluated.",
    "steps": "One line a length{bars}.",
}


def page(contents: Contents, pictures: Sequence[Picture]) -> str:
    """The whole page; the same contents give the same text."""
    sections = list(_sections(contents, pictures))
    taken: set[str] = set()
    anchors = [anchor(heading, taken) for heading, _ in sections]
    links = (
        element("li", element("a", heading, href=f"#{name}"))
        for name, (heading, _) in zip(anchors, sections, strict=True)
    )
    header = element(
        "header",
        element("h1", contents.title),
        element("p", _overview(contents), class_="lead"),
        element("nav", element("ul", links), aria_label="Contents"),
    )
    bodies = (
        element("section", element("h2", heading, id=name), body, aria_labelledby=name)
        for name, (heading, body) in zip(anchors, sections, strict=True)
    )
    footer = element("footer", element("p", _provenance(contents)))
    script = Html(_resource("page.js"))
    body = element("body", header, element("main", bodies), footer, element("script", script))
    return f"<!doctype html>\n{element('html', _head(contents, script), body, lang='en')}\n"


def _head(contents: Contents, script: str) -> Html:
    css = Html(_resource("page.css"))
    # Nothing is loaded from anywhere, and no script runs but the page's own, whatever the results' texts contain.
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(css)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", contents.title),
        element("style", css),
    )


def _sections(contents: Contents, pictures: Sequence[Picture]) -> Iterator[tuple[str, Html]]:
    """(heading, body) in the order of the page."""
    if contents.tasks:
        yield "Summary", _summary(contents)
    for task in contents.tasks:
        if task.lengths:
            yield task.name, _task(contents, task, [picture for picture in pictures if picture.task == task.name])
    if without_lengths := [task for task in contents.tasks if not task.lengths]:
        yield "Tasks without lengths", points_html(score_table(contents, without_lengths))
    for heading, note, table in _lists(contents):
        if table.rows:
            yield heading, joined([_note(note), text_html(table, heading)])
    yield "All cells", cells_html(contents)
    yield "How to repeat it", _repetition(contents)


def _lists(contents: Contents) -> Iterable[tuple[str, str, TextTable]]:
    return (
        (
            "Failed cells",
            "Means are over the cells that finished. The same scan started again tries these again.",
            failure_table(contents),
        ),
        (
            "Prompts that were cut",
            "These texts were longer than the length asked for: what was cut out of them, the model has not seen.",
            cut_table(contents),
        ),
        (
            "Models",
            "C is the block size, M the number of remembered segments, F the length of the feedback memory.",
            model_table(contents),
        ),
    )


def _summary(contents: Contents) -> Html:
    sentences = element("ul", (element("li", sentence(contents, task)) for task in contents.tasks), class_="answer")
    table = summary_table(contents)
    star = " ★ marks the best." if table.marked else ""
    parts = [sentences, text_html(table, "Summary"), _note(explanation(contents) + star)]
    if contents.left_out:
        left_out = (
            f"{name} (it has {listed(metrics) if metrics else 'none'})" for name, metrics in contents.left_out.items()
        )
        parts.append(_note(f"Left out, since they lack the metric: {listed(left_out)}."))
    return joined(parts)


def _task(contents: Contents, task: TaskResults, pictures: Sequence[Picture]) -> Html:
    by_kind = {kind: [picture for picture in pictures if picture.kind == kind] for kind in _CAPTIONS}
    parts = [_figures(by_kind["accuracy"], task), points_html(length_table(contents, task, task.metric))]
    if others := task.metrics[1:]:
        tables = (points_html(length_table(contents, task, metric)) for metric in others)
        parts.append(element("details", element("summary", f"Also: {listed(map(words, others))}"), tables))
    if by_kind["heatmap"]:
        parts += [
            element("h3", "By depth"),
            _note(_CAPTIONS["heatmap"]),
            _figures(by_kind["heatmap"], task, side_by_side=True),
        ]
    if by_kind["positions"]:
        parts += [element("h3", "By position"), _figures(by_kind["positions"], task)]
    watched = [variant for variant in task.by_variant if len(task.steps(variant)) > 1]
    if watched:
        tables = (points_html(step_table(task, variant)) for variant in watched)
        figures = _figures(by_kind["steps"], task)
        parts += [
            element("h3", "During the training"),
            figures,
            element("details", element("summary", "As tables"), tables),
        ]
    return joined(parts)


def _figures(pictures: Sequence[Picture], task: TaskResults, *, side_by_side: bool = False) -> Html:
    """Pictures with their captions; those side by side share one that stands elsewhere."""

    def caption(kind: str) -> Html:
        return element("figcaption", _unbroken(_CAPTIONS[kind].format(bars=_BARS * task.has_intervals)))

    figures = [
        element("figure", _image(picture), "" if side_by_side else caption(picture.kind)) for picture in pictures
    ]
    return element("div", figures, class_="pictures") if side_by_side else joined(figures)


def _image(picture: Picture) -> Html:
    source = f"data:image/svg+xml;base64,{base64.b64encode(picture.svg.encode()).decode()}"
    return element("img", src=source, alt=picture.alt, width=picture.width, height=picture.height)


def _overview(contents: Contents) -> str:
    """What was evaluated, in a sentence."""
    cells = [cell for _, cell in contents.cells]
    numbers = (
        (len(contents.variants), "model"),
        (len({cell.task for cell in cells}), "task"),
        (len({cell.length for cell in cells} - {None}), "length"),
        (len({cell.depth for cell in cells} - {None}), "depth"),
        (len({cell.seed for cell in cells} - {None}), "seed"),
    )
    grid = listed(counted(number, noun) for number, noun in numbers if number > 1 or noun in {"model", "task"})
    sizes = sorted({cell.examples for cell in cells if cell.is_done})
    examples = f" of {sizes[0]:,}{f' to {sizes[-1]:,}' if len(sizes) > 1 else ''} examples" if sizes else ""
    failed = f"; {len(contents.failed):,} failed" if contents.failed else ""
    trained = ""
    if contents.trained_lengths is not None:
        shortest, longest = contents.trained_lengths
        trained = f" The training had texts of {shortest:,} to {longest:,} tokens."
    return f"{grid}: {counted(len(cells), 'cell')}{examples}{failed}.{trained}"


def _repetition(contents: Contents) -> Html:
    parts: list[Html] = []
    for number, scan in enumerate(contents.scans, 1):
        if len(contents.scans) > 1:
            parts.append(element("h3", scan.name or f"Scan {number} of {len(contents.scans)}"))
        if not scan.config:
            parts.append(_note("This scan's folder holds no config.gin."))
            continue
        command = element("code", "famjax --run_mode=scan --gin_file=config.gin")
        parts.append(element("p", "With the file below as config.gin: ", command))
        listing = element("pre", element("code", scan.config), tabindex=0)
        parts.append(element("details", element("summary", "config.gin"), listing))
    return joined(parts)


def _provenance(contents: Contents) -> str:
    digests = (f"{f'{scan.name}: ' if scan.name else ''}{scan.digest}" for scan in contents.scans)
    return f"Written by famjax from results.jsonl, SHA-256 {listed(digests)}."


def _note(text: str) -> Html:
    return element("p", _unbroken(text), class_="note")


def _unbroken(text: str) -> str:
    """The text with its percentages in one piece."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _resource(name: str) -> str:
    return importlib.resources.files("famjax.evaluation.report").joinpath(name).read_text(encoding="utf-8")
