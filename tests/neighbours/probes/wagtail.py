from __future__ import annotations

import re
from typing import Any

from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import include, path
from wagtail.fields import RichTextField
from wagtail.models import Page, Site

from tests.neighbours.site import Answer, visit_all

CLIENTS = 50
SECTIONS, ARTICLES = 4, 4
# Where its menu leads, which is not in links.
ADMIN = {"/admin/", "/admin/pages/2/", "/admin/users/"}


class Article(Page):
    body = RichTextField()
    template = "probes/article.html"
    content_panels = [*Page.content_panels, "body"]


def publish(request: HttpRequest) -> HttpResponse:
    """As its admin does it: a revision, then what is live."""
    article = Article.objects.get(slug=request.GET["slug"])
    article.body += f"<p>published: {article.revisions.count()}</p>"
    article.save_revision().publish()
    return HttpResponse(article.body[-40:])


def move(request: HttpRequest) -> HttpResponse:
    """A new page below another: SQL of the tree's own."""
    section = Article.objects.get(slug=request.GET["slug"])
    section.add_child(instance=Article(title="New", slug="new", body="<p>new</p>"))
    return HttpResponse(str(section.get_children().count()))


def __getattr__(name: str) -> Any:
    """The URLs, when all apps are there."""
    if name != "urlpatterns":
        raise AttributeError(name)
    return [
        path("publish", publish),
        path("move", move),
        path("admin/", include("wagtail.admin.urls")),
        path("documents/", include("wagtail.documents.urls")),
        path("", include("wagtail.urls")),
    ]


def _links(answers: list[Answer]) -> set[str]:
    found = re.findall(r'href="(/[^"#]*)"', "".join(answer.body for answer in answers))
    return {link for link in found if not re.search(r"/static/|logout|/jsi18n|/export|format=", link)}


def _crawl(starts: set[str], depth: int, **options: Any) -> dict[str, Answer]:
    """All pages that can be reached from there."""
    seen: dict[str, Answer] = {}
    new = starts
    for _ in range(depth):
        paths = sorted(new)
        answers = visit_all(paths, at_once=CLIENTS, **options)
        seen |= dict(zip(paths, answers, strict=True))
        new = _links(answers) - seen.keys()
    return seen


def probe_the_pages_are_written() -> Any:
    root = Page.objects.get(depth=1)
    home = root.add_child(instance=Article(title="Home", slug="start", body="<p>Welcome</p>"))
    Site.objects.update(root_page=home)
    for number in range(SECTIONS):
        section = home.add_child(
            instance=Article(title=f"Section {number}", slug=f"s{number}", body="<p>A section</p>")
        )
        for place in range(ARTICLES):
            link = f'<a linktype="page" id="{section.id}">back</a>'
            text = f"<p>Article {place} of {number}, {link}</p>"
            section.add_child(
                instance=Article(title=f"Article {place}", slug=f"a{number}-{place}", body=text)
            )
    return Page.objects.count()


def probe_the_site() -> Any:
    pages = _crawl({"/"}, 4)
    again = visit_all(sorted(pages) * 3, at_once=CLIENTS)
    return pages, again


def probe_the_site_while_some_publish() -> Any:
    slugs = [f"a{number}-{place}" for number in range(SECTIONS) for place in range(ARTICLES)]
    told = visit_all([f"/publish?slug={slug}" for slug in slugs], at_once=CLIENTS)
    return told, _crawl({"/"}, 4)


def probe_new_pages() -> Any:
    told = visit_all([f"/move?slug=s{number}" for number in range(SECTIONS)], at_once=1)
    return told, sorted(_crawl({"/"}, 4)), Page.find_problems()


def probe_the_admin() -> Any:
    """Its pages have tokens and ages in them: what they answer, and where they lead."""
    user = User.objects.create_superuser("admin", password="x")
    client = Client()
    client.force_login(user)
    headers = {"Cookie": f"sessionid={client.cookies['sessionid'].value}"}
    pages = _crawl(ADMIN, 2, headers=headers)
    return {path: (answer.status, sorted(_links([answer]))) for path, answer in pages.items()}
