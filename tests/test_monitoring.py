"""The dashboard and the alert rules of the documentation ask only for what is exported."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.core import Metric

from django_db_pooling.metrics.prometheus import PoolCollector
from django_db_pooling.pool.stats import PoolStats

MONITORING = Path(__file__).parents[1] / "docs" / "monitoring"
# What Prometheus itself adds to all that it scrapes.
OF_THE_TARGET = {"job", "instance"}
FIGURES = {7: {"default": PoolStats("default", 1, 2, host_limit=3, host_open=1)}}
# What all processes of a host show alike, or what a sum makes no sense of.
NO_SUMS = {"django_db_pool_host_limit", "django_db_pool_host_open", "django_db_pool_paused"}


def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((MONITORING / "grafana.json").read_text())
    return read


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panel_queries() -> Iterator[tuple[str, str]]:
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def variables() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = dashboard()["templating"]["list"]
    return found


QUERIES = [
    *((f"panel {title}", query) for title, query in panel_queries()),
    *((f"alert {rule['alert']}", rule["expr"]) for rule in alerts()),
]


# -- what a query asks for --------------------------------------------------------------------------


@dataclass
class Asked:
    """``labels``: those of selectors and of what is grouped by."""

    metrics: set[str] = field(default_factory=set)
    labels: set[str] = field(default_factory=set)


TOKEN = re.compile(
    r"""\s+
    | (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)
    | (?P<range>\[[^\]]*\])
    | (?P<variable>\$\{\w+(?::\w+)?\}|\$\w+)
    | (?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?(?:ms|[smhdwy])?)
    | (?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)
    | (?P<sign>=~|!~|!=|==|>=|<=|[-+*/%^=<>(){},@])
    """,
    re.VERBOSE,
)
GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
WORDS = {"and", "or", "unless", "offset", "bool", "inf", "nan"}
FUNCTIONS = {"sum", "max", "rate", "increase", "histogram_quantile"}


def asked(query: str) -> Asked:
    """Raises ValueError for what isn't PromQL as far as it is known here."""
    tokens = list(tokenized(query))
    found = Asked()
    open_ones: list[str] = []
    for number, (kind, text) in enumerate(tokens):
        after = tokens[number + 1][1] if number + 1 < len(tokens) else ""
        before = tokens[number - 1][1] if number else ""
        if text in ("(", "{"):
            open_ones.append(before if text == "(" else "{")
        elif text in (")", "}"):
            if not open_ones or (open_ones.pop() == "{") is not (text == "}"):
                raise ValueError(f"{text!r} closes nothing: {query}")
        elif kind == "name" and open_ones and open_ones[-1] in ("{", *GROUPING):
            found.labels.add(text)
        elif kind == "name" and (after == "(" or after in GROUPING):
            if text.lower() not in FUNCTIONS | GROUPING | WORDS:
                raise ValueError(f"{text} is no known function: {query}")
        elif kind == "name" and text.lower() not in WORDS:
            found.metrics.add(text)
    if open_ones:
        raise ValueError(f"something is left open: {query}")
    return found


def tokenized(query: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(query):
        match = TOKEN.match(query, at)
        if match is None:
            raise ValueError(f"not understood: {query[at:]}")
        at = match.end()
        if match.lastgroup:
            yield match.lastgroup, match[0]


def test_what_a_query_asks_for_is_found() -> None:
    query = """
        histogram_quantile(0.99, sum by (alias, le) (rate(a_bucket{job=~"$job", x!='}by(y)'}[5m])))
        / ignoring (le) group_left (z) sum(b_total) without (instance) > 0.5 and on (alias) c offset 5m
    """
    found = asked(query)
    assert found.metrics == {"a_bucket", "b_total", "c"}
    assert found.labels == {"alias", "le", "job", "x", "z", "instance"}
    for wrong in ("sum(a", "a}", "a{b=1)", "sum by (a) (b))", "a ? b", "summ(a)"):
        with pytest.raises(ValueError):
            asked(wrong)


# -- what is exported -------------------------------------------------------------------------------


def exported() -> dict[str, set[str]]:
    """Labels by name."""
    families: list[Metric] = list(PoolCollector(lambda: FIGURES).collect())
    found: dict[str, set[str]] = {}
    for family in families:
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize("query", [query for _, query in QUERIES], ids=[name for name, _ in QUERIES])
def test_queries_ask_for_what_there_is(query: str) -> None:
    found, there = asked(query), exported()
    assert found.metrics
    assert "pid" not in found.labels
    assert found.metrics <= there.keys()
    for metric in found.metrics:
        assert found.labels <= there[metric] | OF_THE_TARGET
    # Counters are asked for their growth, and nothing else is.
    for metric in found.metrics:
        grows = metric.endswith(("_total", "_bucket", "_sum", "_count"))
        assert bool(re.search(rf"(rate|increase)\({metric}\b", query)) is grows, metric
    # Processes come and go: what is asked for is the sum of all, and of counters the sum of their growth.
    for metric in found.metrics:
        selected = re.findall(
            rf"(\w+) ?\((?:(?:rate|increase)\()?{metric}\b", re.sub(r" by \([^)]*\)", "", query)
        )
        assert set(selected) == {"max" if metric in NO_SUMS else "sum"}, metric
    # A bucket that is asked for by its bound is there.
    bounds = {
        sample.labels["le"]
        for family in PoolCollector(lambda: FIGURES).collect()
        for sample in family.samples
        if "le" in sample.labels
    }
    assert set(re.findall(r'\ble="([^"]+)"', query)) <= bounds


def test_every_metric_is_on_the_dashboard() -> None:
    shown = set().union(*(asked(query).metrics for _, query in panel_queries()))
    families = {family.name for family in PoolCollector(dict).describe()}
    assert {re.sub(r"_(total|bucket|sum|count)$", "", metric) for metric in shown} == families


def test_the_first_row_says_what_matters_most() -> None:
    panels = dashboard()["panels"]
    top = [panel for panel in panels if panel["gridPos"]["y"] == 0]
    assert [(panel["title"], panel["targets"][0]["expr"].split("{")[0]) for panel in top] == [
        ("Free pool slots", "sum by (alias) (django_db_pool_free"),
        ("Connections acquired per minute", "sum by (alias) (rate(django_db_pool_checkouts_total"),
        ("Connections created per minute", "sum by (alias) (rate(django_db_pool_opened_total"),
    ]
    assert panels[:3] == top
    assert [panel["gridPos"]["x"] for panel in top] == [0, 8, 16]


def test_the_dashboard_can_be_imported() -> None:
    read = dashboard()
    assert read["title"]
    assert read["uid"]
    assert "__inputs" not in read
    panels = read["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in panels
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(set(places)) == len(places)
    assert max(x for x, _ in places) < 24
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in panels:
        assert panel["datasource"] == source
        assert panel["description"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            assert target["datasource"] == source
            labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            grouped = re.search(r"(?:sum|max) by \(([^)]+)\)", target["expr"])
            assert grouped is not None
            assert labels == set(grouped[1].split(", ")) - {"le"}


def test_variables_choose_among_what_there_is() -> None:
    by_name = {variable["name"]: variable for variable in variables()}
    assert list(by_name) == ["datasource", "job", "instance", "alias"]
    assert (by_name["datasource"]["type"], by_name["datasource"]["query"]) == ("datasource", "prometheus")
    for name in ("job", "instance", "alias"):
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", by_name[name]["query"]["query"])
        assert match is not None
        assert match[2] == name
        assert asked(match[1]).metrics <= exported().keys()
        assert asked(match[1]).labels <= OF_THE_TARGET
    for _, query in panel_queries():
        used = set(re.findall(r"\$(\w+)", query))
        assert used - {"__rate_interval"} == {"job", "instance", "alias"}


@pytest.mark.parametrize("rule", alerts(), ids=[rule["alert"] for rule in alerts()])
def test_alerts_say_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule.keys() - {"for"} == {"alert", "expr", "labels", "annotations"}
    assert re.fullmatch(r"DjangoDbPool[A-Za-z]+", rule["alert"])
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"].keys() == {"summary", "runbook"}
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["runbook"].endswith(".")
    # What they name is still there after the aggregation.
    for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
        assert label in ("job", "instance", "alias")


def test_alerts_are_of_different_names() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert len(set(names)) == len(names)
