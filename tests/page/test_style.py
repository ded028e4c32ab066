"""The page without its style sheet, which a site may have forgotten to collect."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.contrib.staticfiles import finders
from django.template.loader import render_to_string
from django.test import Client, override_settings

from django_db_pooling.dashboard.charts import Chart

STYLE = "django_db_pooling/pools.css"


def test_it_says_that_the_style_sheet_is_missing_where_it_is(boss: Client) -> None:
    with override_settings(ROOT_URLCONF="tests.page.urls_everywhere"):
        page = boss.get("/pools/").content.decode()
    [(kind, text)] = re.findall(r'<p class="(unstyled) wrap">(.*?)</p>', page)
    assert "collectstatic" in text
    found = finders.find(STYLE)
    assert isinstance(found, str)
    assert f".{kind} {{ display: none; }}" in Path(found).read_text()


@pytest.mark.parametrize("shape", ["polyline", "path", "line"])
def test_charts_are_lines_then_and_not_black(shape: str) -> None:
    chart = Chart("title", "in-use", "1", "2", "5", "summary", ["0,0 1,1"], ["0,0 1,1"], ["1,1 0,0"], "4.0")
    page = render_to_string("django_db_pooling/_pool.html", {"pool": {"alias": "default", "charts": [chart]}})
    drawn = re.findall(rf"<{shape} [^>]*>", page)
    assert drawn and all("stroke=" in one for one in drawn)
    assert all('fill="none"' in one for one in drawn if shape != "line")
