"""What must hold of a pooled site, whatever its visitors have done."""

from __future__ import annotations

from collections.abc import Sequence

from tests.e2e.sites import Site, eventually

PATIENCE = 30.0


def is_at_rest(site: Site) -> bool:
    stats = site.stats()
    return (stats["in_use"], stats["opening"], stats["waiting"]) == (0, 0, 0)


def assert_every_slot_is_usable(site: Site, path: str = "/hold?s=1&pin") -> None:
    """As many requests as slots hold one at the same time: fewer slots would give one to two of them.

    ``path``: of a view that does, and answers with the connection's number.
    """
    slots = site.stats()["max_outstanding"]
    answers = site.get_all([path] * slots)
    assert {answer.status for answer in answers} == {200}, answers
    assert len({answer.text for answer in answers}) == slots, answers
    eventually(lambda: is_at_rest(site), PATIENCE)


def assert_tokens_are_their_own(
    site: Site, numbers: range, paths: Sequence[str] = ("/token",), at_once: int | None = None
) -> None:
    """Each request has a token, and what the database answers to it must have that and no other."""
    asked = [(path, f"token-{number}") for number in numbers for path in paths]
    answers = site.get_all([f"{path}?t={token}" for path, token in asked], at_once)
    others = [
        (path, token, answer)
        for (path, token), answer in zip(asked, answers, strict=True)
        if (answer.status, answer.text) != (200, token)
    ]
    assert others == [], others
