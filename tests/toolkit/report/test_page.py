"""The page about a run: it is sound HTML, fetches nothing, lets no name act, and says what is missing."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fptk.report.page import MARK, assemble, render
from fptk.report.results import verdict_of
from fptk.report.sources import Material, ReportRequest, gather

from .conftest import IMAGE, MATH, SCRIPT, STYLE

ROOT = Path(__file__).resolve().parents[2]
VOID = {"meta", "img", "link", "br", "hr", "input", "source"}
ADDRESSES = {"src", "href", "xlink:href", "action", "formaction", "srcset", "poster", "data", "background", "cite"}


@dataclass
class Element:
    """An element with what is in it."""

    tag: str
    attributes: dict[str, str]
    inner: list[Element | str] = field(default_factory=list)

    def all(self, *tags: str) -> Iterator[Element]:
        """This element and those in it, in order; of these tags where any are named."""
        if not tags or self.tag in tags:
            yield self
        for each in self.inner:
            if isinstance(each, Element):
                yield from each.all(*tags)

    @property
    def text(self) -> str:
        """All text in it, without that of style sheets."""
        parts = (each if isinstance(each, str) else each.text for each in self.inner if self.tag != "style")
        return " ".join(" ".join(parts).split())


class Reader(HTMLParser):
    """Builds the tree of a page, and insists that every element is closed where it was opened."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        assert len(element.attributes) == len(attrs), f"<{tag}> names an attribute twice"
        self.open[-1].inner.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.open[-1].inner.append(data)


def read(text: str) -> Element:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == [reader.root]
    return reader.root


@pytest.fixture(scope="module")
def source(report_path: Path) -> str:
    return report_path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source: str) -> Element:
    return read(source)


def section(page: Element, name: str) -> Element:
    return next(each for each in page.all("section") if each.attributes["id"] == name)


def test_every_section_is_there_and_has_something_to_show(page: Element) -> None:
    names = [each.attributes["id"] for each in page.all("section")]
    assert names == [
        *("verdicts", "accuracy", "speed", "faces", "mistakes"),
        *("quantization", "training", "processors", "machines", "provenance"),
    ]
    (nav,) = page.all("nav")
    assert [link.attributes["href"] for link in nav.all("a")] == [f"#{name}" for name in names]
    assert not [each for each in page.all("p") if each.attributes.get("class") == "missing"]
    charts = {name: len([*section(page, name).all("svg")]) for name in ("accuracy", "speed", "mistakes", "training")}
    assert charts == {"accuracy": 2, "speed": 2, "mistakes": 2, "training": 3}


def test_the_headline_is_the_gravest_verdict(page: Element) -> None:
    (headline,) = page.all("h1")
    assert headline.text == "1 of 3 engines was refused"
    assert headline.attributes["class"] == "bad"
    verdicts = section(page, "verdicts").text
    for engine, word in (("onnx fp32", "pass"), ("onnx int8", "pass"), ("openvino fp32", "refused")):
        assert re.search(rf"{engine} \S {word}", verdicts), engine


def test_figures_are_those_of_the_files(page: Element) -> None:
    assert "20.0 50.0 60.0 70.0" in section(page, "speed").text
    assert "1024 × 1024" in section(page, "speed").text
    assert "12.5" in section(page, "quantization").text
    assert "99.00" in section(page, "processors").text
    assert "hair 25.00" in section(page, "machines").text
    assert "f1 50.00 at step 3" in section(page, "training").text


def test_a_measurement_that_judged_nothing_leaves_the_verdict_of_the_export(full_run: Path) -> None:
    engine = gather(ReportRequest((full_run,))).engines[1]
    assert engine.measured is not None
    for word, expected in (("refused", "refused"), ("not judged", "pass")):
        assert verdict_of(replace(engine, measured=replace(engine.measured, verdict=word))) == expected


def test_it_fetches_nothing(page: Element, source: str) -> None:
    for element in page.all():
        for name, value in element.attributes.items():
            if name in ADDRESSES:
                assert value.startswith(("data:image/", "#")), f"<{element.tag} {name}={value[:80]}>"
            assert not name.startswith("on"), f"<{element.tag} {name}>"
    assert not [*page.all("script", "iframe", "object", "embed", "link", "base", "form")]
    for address in re.findall(r"url\(([^)]*)\)", "".join(text_of_styles(page))):
        assert address.startswith("#"), address
    policy = next(each for each in page.all("meta") if each.attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy.attributes["content"] == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert "@import" not in source.replace("@import url(https://example.org/x.css)", "")  # in a name, as text


def text_of_styles(page: Element) -> Iterator[str]:
    for element in page.all():
        yield element.attributes.get("style", "")
        yield from (str(value) for name, value in element.attributes.items() if name in ("clip-path", "fill", "mask"))
    for style in page.all("style"):
        yield from (each for each in style.inner if isinstance(each, str))


def test_no_name_acts(page: Element, source: str) -> None:
    """Names stand in the page as text, to the letter; control and direction marks are shown."""
    assert len([*page.all("style")]) == 1
    for name in (SCRIPT, IMAGE, STYLE):
        assert name in page.text, name
    shown = MATH.replace("\u202e", "\\u202e").replace("\x1b", "\\x1b")
    assert shown in page.text
    assert "\u202e" not in source
    assert "\x1b" not in source
    sources = {picture.attributes["src"][:11] for picture in page.all("img")}
    assert sources == {"data:image/"}


def test_every_id_is_one_and_every_link_leads_to_one(page: Element) -> None:
    ids = [element.attributes["id"] for element in page.all() if "id" in element.attributes]
    assert len(ids) == len({*ids})
    for element in page.all():
        for name, value in element.attributes.items():
            wanted = value.removeprefix("#") if name in ADDRESSES and value.startswith("#") else ""
            wanted = wanted or (value if name == "aria-labelledby" else "")
            wanted += " " + " ".join(re.findall(r"url\(#([^)]+)\)", value))
            assert {*wanted.split()} <= {*ids}, f"<{element.tag} {name}={value[:80]}>"


def test_it_can_be_heard(page: Element) -> None:
    """Headings without gaps, names for pictures, charts and what scrolls, headings for rows and columns."""
    assert next(page.all("html")).attributes["lang"] == "en"
    levels = [int(each.tag[1]) for each in page.all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(picture.attributes["alt"] for picture in page.all("img"))
    for chart in (each for each in page.all("svg") if each.attributes.get("class") != "swatch"):
        assert chart.attributes["role"] == "img"
        title, description, *_ = [each for each in chart.inner if isinstance(each, Element)]
        assert (title.tag, description.tag) == ("title", "desc")
        assert title.text
        assert description.text
    for scrolled in (each for each in page.all() if each.attributes.get("role") == "region"):
        assert scrolled.attributes["tabindex"] == "0"
        assert scrolled.attributes["aria-label"]
    for table in page.all("table"):
        columns = [cell.attributes["scope"] for cell in next(table.all("thead")).all("th")]
        rows = [*next(table.all("tbody")).all("tr")]
        assert {*columns} == {"col"}
        assert all([cell.attributes["scope"] for cell in row.all("th")] == ["row"] for row in rows)
        assert all(len([*row.all("th", "td")]) == len(columns) for row in rows)


def test_charts_take_the_colors_of_the_page(page: Element) -> None:
    for chart in (each for each in page.all("svg") if each.attributes.get("class") != "swatch"):
        styles = " ".join(element.attributes.get("style", "") for element in chart.all())
        assert "var(--ink)" in styles
        assert "#0000" not in styles, "a stand-in was left"
        assert "font:" not in styles
        assert not [*chart.all("style", "metadata", "image")]


def test_a_report_about_nothing_says_so_in_every_section() -> None:
    page = read(render(assemble(Material(None, (), None, ()), None, "there is no engine")))
    assert next(page.all("h1")).text == "Trained, and not exported yet"
    missing = {
        each.attributes["id"]: [p.text for p in each.all("p") if p.attributes.get("class") == "missing"]
        for each in page.all("section")
    }
    assert [name for name, texts in missing.items() if not texts] == ["provenance"]
    assert all(len(text) > 30 for texts in missing.values() for text in texts)
    assert not [*page.all("svg", "img", "table")]


def test_a_bundle_of_the_first_schema_has_a_report() -> None:
    material = gather(ReportRequest((ROOT / "fixtures" / "bundles" / "version-1",)))
    page = read(render(assemble(material, None, "it was not tried")))
    assert "it was not tried" in section(page, "faces").text
    assert [*section(page, "accuracy").all("svg")]
    assert material.engines[0].name in section(page, "verdicts").text
    assert MARK in render(assemble(material, None, ""))[:1024]
