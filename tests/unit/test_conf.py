from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_db_pooling import conf
from django_db_pooling.conf import UNCHANGED, Problem, limits_for, override, problems
from django_db_pooling.pool.limits import Limits

COUNTS = ["1", 1.0, True, -1, [1], math.nan]
SECONDS = ["1", True, -1, -0.001, math.inf, -math.inf, math.nan, [1], Decimal("1"), 1j]
GOOD = [
    ("SIZE", 1),
    ("SIZE", 20),
    ("MAX_OUTSTANDING", 10),
    ("MAX_OUTSTANDING", None),
    ("TIMEOUT", 0),
    ("TIMEOUT", 0.5),
    ("TIMEOUT", None),
    ("MIN_SIZE", 0),
    ("MIN_SIZE", 10),
    ("IDLE_TIMEOUT", 0),
    ("IDLE_TIMEOUT", 1.5),
    ("IDLE_TIMEOUT", None),
    ("MAX_AGE", 0),
    ("MAX_AGE", 60),
    ("MAX_AGE", None),
    ("MAX_WAITING", 0),
    ("MAX_WAITING", 100),
    ("MAX_WAITING", None),
]
BAD = [
    *[("SIZE", value) for value in [*COUNTS, 0, None]],
    *[("MAX_OUTSTANDING", value) for value in [*COUNTS, 0, 9]],
    *[("MIN_SIZE", value) for value in [*COUNTS, None, 11]],
    *[("MAX_WAITING", value) for value in COUNTS],
    *[(name, value) for name in ("TIMEOUT", "IDLE_TIMEOUT", "MAX_AGE") for value in SECONDS],
]


@pytest.fixture(autouse=True)
def nothing_overridden(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(conf, "_overrides", {})
    yield


def limits(alias: str = "default", **settings: Any) -> Limits:
    return limits_for(alias, settings)


def only_problem(pool: Any, **settings: Any) -> Problem:
    (problem,) = problems("default", {"POOL": pool, **settings})
    return problem


# -- settings -------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"POOL": None}, {"POOL": True}, {"POOL": {}}, {"POOL": False}])
def test_without_values_the_defaults_apply(settings: dict[str, Any]) -> None:
    assert problems("default", settings) == []
    assert limits(**settings) == Limits()
    documented = Limits(10, 20, 30.0, 0, 300.0, 3600.0, None)
    assert limits(**settings) == documented


@pytest.mark.parametrize(
    ("pool", "off"), [(False, True), (True, False), (None, False), ({}, False), (0, False)]
)
def test_only_false_turns_pooling_off(pool: Any, off: bool) -> None:
    assert conf.is_off({"POOL": pool}) is off


def test_an_alias_without_the_setting_is_pooled() -> None:
    assert not conf.is_off({})


@pytest.mark.parametrize(("name", "value"), GOOD)
def test_good_values_reach_the_limits(name: str, value: Any) -> None:
    pool = {name: value}
    assert problems("default", {"POOL": pool}) == []
    assert getattr(limits(POOL=pool), name.lower()) == value


@pytest.mark.parametrize(("name", "value"), BAD)
def test_bad_values_are_told_by_name_and_value(name: str, value: Any) -> None:
    problem = only_problem({name: value})
    assert problem.id == "django_db_pooling.E003"
    assert f"DATABASES['default'][\"POOL\"][{name!r}] is {value!r}." == problem.message
    assert problem.hint.startswith("It must be ")
    with pytest.raises(ImproperlyConfigured, match="E003"):
        limits(POOL={name: value})


@pytest.mark.parametrize("name", ["TIMEOUT", "IDLE_TIMEOUT", "MAX_AGE"])
def test_a_number_too_large_for_a_float_raises_nothing_else(name: str) -> None:
    for problem in problems("default", {"POOL": {name: 10**400}}):
        assert problem.id == "django_db_pooling.E003"


def test_behind_a_proxy_that_shares_sessions_none_is_reset() -> None:
    for mode in (None, "session", "transaction"):
        pool = {"PROXY": mode, "RESET": "always"}
        assert problems("default", {"POOL": pool}) == []
        assert conf.proxy({"POOL": pool}) == mode
        assert conf.reset_mode({"POOL": pool}) == ("never" if mode == "transaction" else "always")
    for bad in ("statement", True, ["session"]):
        assert only_problem({"PROXY": bad}).hint == "It must be 'transaction', 'session' or None."


def test_every_bad_value_is_told() -> None:
    found = problems("default", {"POOL": {"SIZE": 0, "TIMEOUT": -1, "SPEED": 3}})
    assert [problem.id[-4:] for problem in found] == ["E003", "E003", "E002"]


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("SIZES", "SIZE"),
        ("size", "SIZE"),
        ("Max_Outstanding", "MAX_OUTSTANDING"),
        ("TIME_OUT", "TIMEOUT"),
        ("MINSIZE", "MIN_SIZE"),
        ("IDLE_TIME", "IDLE_TIMEOUT"),
        ("MAXAGE", "MAX_AGE"),
        ("MAX_WAIT", "MAX_WAITING"),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest_right_one(key: str, meant: str) -> None:
    problem = only_problem({key: 1})
    assert problem.id == "django_db_pooling.E002"
    assert repr(key) in problem.message
    assert f"Did you mean {meant!r}?" in problem.hint


@pytest.mark.parametrize("key", [None, 3, ("SIZE",), b"SIZE", ""])
def test_a_key_that_is_no_name_is_told(key: Any) -> None:
    assert only_problem({key: 1}).id == "django_db_pooling.E002"


@pytest.mark.parametrize("pool", [1, 0, "on", [], [("SIZE", 1)], 10.0])
def test_what_is_neither_a_dict_nor_a_switch_is_told(pool: Any) -> None:
    problem = only_problem(pool)
    assert problem.id == "django_db_pooling.E001"
    assert f"is {pool!r}." in problem.message
    with pytest.raises(ImproperlyConfigured, match="E001"):
        limits(POOL=pool)


def test_djangos_own_pool_beside_this_one_is_told() -> None:
    options = {"OPTIONS": {"pool": {"min_size": 2}}}
    assert only_problem({}, **options).id == "django_db_pooling.E004"
    assert only_problem(None, **options).id == "django_db_pooling.E004"
    assert problems("default", {"POOL": False, **options}) == []
    assert problems("default", {"OPTIONS": {"pool": False}}) == []
    assert problems("default", {"OPTIONS": None}) == []


def test_a_left_out_max_outstanding_grows_with_the_size() -> None:
    assert limits(POOL={"SIZE": 50}).max_outstanding == 50
    assert limits(POOL={"SIZE": 5}).max_outstanding == 20


def test_a_max_outstanding_below_the_size_is_told() -> None:
    problem = only_problem({"SIZE": 5, "MAX_OUTSTANDING": 4})
    assert "MAX_OUTSTANDING" in problem.message
    assert "MIN_SIZE" in only_problem({"SIZE": 5, "MIN_SIZE": 6}).message


@pytest.mark.parametrize(
    ("settings", "age"),
    [
        ({}, 3600),
        ({"CONN_MAX_AGE": 0}, 3600),
        ({"CONN_MAX_AGE": 60}, 60),
        ({"CONN_MAX_AGE": 0.5}, 0.5),
        ({"CONN_MAX_AGE": None}, None),
        ({"CONN_MAX_AGE": 0, "POOL": {"MAX_AGE": 7}}, 7),
        ({"CONN_MAX_AGE": 0, "POOL": {"MAX_AGE": None}}, None),
        ({"CONN_MAX_AGE": 60, "POOL": {"MAX_AGE": 7}}, 60),
        ({"CONN_MAX_AGE": None, "POOL": {"MAX_AGE": 7}}, None),
    ],
)
def test_conn_max_age_keeps_its_meaning_above_0_and_as_none(
    settings: dict[str, Any], age: float | None
) -> None:
    assert limits(**settings).max_age == age


# -- set_pool_size --------------------------------------------------------------------------


def test_set_pool_size_beats_the_settings() -> None:
    override(3, 4, 5, None)
    found = limits(POOL={"SIZE": 7, "MAX_OUTSTANDING": 8, "TIMEOUT": 9, "IDLE_TIMEOUT": 6})
    assert (found.size, found.max_outstanding, found.timeout, found.idle_timeout) == (3, 4, 5, 6)


@pytest.mark.parametrize("specific_first", [True, False])
def test_one_alias_beats_all_of_them(specific_first: bool) -> None:
    calls: list[tuple[int, int, float, str | None]] = [(5, 6, 7, "other"), (2, 3, 4, None)]
    for call in calls if specific_first else reversed(calls):
        override(*call)
    assert limits("other") == Limits(5, 6, 7)
    assert limits("default") == Limits(2, 3, 4)
    assert conf.overridden_aliases() == ["other"]


@pytest.mark.parametrize(
    ("settings", "size", "most"),
    [
        ({}, 5, 20),
        ({}, 50, 50),
        ({"POOL": {"SIZE": 2, "MAX_OUTSTANDING": 3}}, 1, 3),
        ({"POOL": {"SIZE": 2, "MAX_OUTSTANDING": 3}}, 9, 9),
        ({"POOL": {"MAX_OUTSTANDING": None}}, 9, None),
    ],
)
def test_a_left_out_max_outstanding_is_the_larger_of_the_present_one_and_the_size(
    settings: dict[str, Any], size: int, most: int | None
) -> None:
    override(size, UNCHANGED, UNCHANGED, None)
    assert (limits(**settings).size, limits(**settings).max_outstanding) == (size, most)


def test_a_left_out_max_outstanding_keeps_what_an_earlier_call_said() -> None:
    override(2, 30, UNCHANGED, None)
    override(3, UNCHANGED, UNCHANGED, None)
    assert limits().max_outstanding == 30
    override(3, None, UNCHANGED, None)
    override(40, UNCHANGED, UNCHANGED, None)
    assert limits().max_outstanding is None


def test_a_left_out_max_outstanding_that_was_moved_up_stays_up() -> None:
    override(50, UNCHANGED, UNCHANGED, None)
    override(10, UNCHANGED, UNCHANGED, None)
    assert (limits().size, limits().max_outstanding) == (10, 50)
    override(10, 20, UNCHANGED, None)
    override(5, UNCHANGED, UNCHANGED, None)
    assert limits().max_outstanding == 20


def test_a_left_out_max_outstanding_of_one_alias_is_that_for_all() -> None:
    override(2, 3, UNCHANGED, None)
    override(1, UNCHANGED, UNCHANGED, "other")
    assert (limits("other").size, limits("other").max_outstanding) == (1, 3)
    override(5, UNCHANGED, UNCHANGED, "other")
    assert (limits("other").size, limits("other").max_outstanding) == (5, 5)


def test_a_left_out_timeout_stays() -> None:
    override(2, UNCHANGED, UNCHANGED, None)
    assert limits(POOL={"TIMEOUT": 9}).timeout == 9
    override(2, UNCHANGED, None, None)
    override(2, UNCHANGED, UNCHANGED, None)
    assert limits(POOL={"TIMEOUT": 9}).timeout is None


def test_a_size_below_min_size_wins() -> None:
    override(2, UNCHANGED, UNCHANGED, None)
    assert limits(POOL={"MIN_SIZE": 5}).min_size == 2


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        *[((size, UNCHANGED, UNCHANGED), "size") for size in [0, -1, True, False, 1.0, "1", None, math.nan]],
        *[
            ((5, most, UNCHANGED), "max_outstanding")
            for most in [4, 0, True, False, 5.0, "5", math.nan, math.inf]
        ],
        *[((5, 5, timeout), "timeout") for timeout in [-1, True, False, "1", math.nan, math.inf]],
    ],
)
def test_a_bad_argument_is_named_and_nothing_has_changed(arguments: tuple[Any, Any, Any], name: str) -> None:
    override(7, 8, 9, None)
    with pytest.raises(ValueError, match=f"^{name} must be ") as caught:
        override(*arguments, None)
    bad = arguments[["size", "max_outstanding", "timeout"].index(name)]
    assert repr(bad) in str(caught.value)
    assert limits() == Limits(7, 8, 9)


def test_a_timeout_too_large_for_a_float_is_a_value_error_or_none_at_all() -> None:
    try:
        override(1, 1, 10**400, None)
    except ValueError as error:
        assert "timeout" in str(error)


def test_the_default_of_an_argument_shows_as_unchanged() -> None:
    assert repr(UNCHANGED) == "<unchanged>"


def test_wrong_settings_stay_errors_although_set_pool_size_beats_them() -> None:
    override(7, 8, 9, None)
    with pytest.raises(ImproperlyConfigured, match="SIZE"):
        limits(POOL={"SIZE": 0})
