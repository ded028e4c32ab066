"""What django-ldapdb does, it does as without the pool: the same results, the same errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import ldap
import pytest
from django.contrib.auth import get_user_model
from django.core.exceptions import ObjectDoesNotExist
from django.db import models
from django.db.models import Q
from django.test import Client

from tests.ldap_backend.conftest import USERS, Configure, Setting, new, remove_new
from tests.ldap_backend.models import Account, Group, User
from tests.slapd import FIRST_ID, TEAMS, Slapd

NOBODY = f"uid=nobody,{Slapd.people_dn}"
ALL = [Slapd.uid(number) for number in range(USERS)]
# What this takes is django-ldapdb's own business: only that it is the same.
SAME = object()

READS: dict[str, tuple[Callable[[Any, Any], Any], Any]] = {
    "get": (lambda users, groups: users.get(uid="user007").mail, "user007@example.org"),
    "get by another field": (lambda users, groups: users.get(number=FIRST_ID + 7).uid, "user007"),
    "get of nobody": (lambda users, groups: users.get(uid="nobody"), User.DoesNotExist),
    "get of several": (lambda users, groups: users.get(team=FIRST_ID), User.MultipleObjectsReturned),
    "get by dn": (lambda users, groups: users.get(dn=f"uid=user007,{Slapd.people_dn}").uid, "user007"),
    "get by a dn of nobody": (lambda users, groups: users.get(dn=NOBODY), SAME),
    "filter by dn": (lambda users, groups: uids(users.filter(dn=NOBODY)), SAME),
    "unsupported lookup of a dn": (lambda users, groups: uids(users.filter(dn__in=[NOBODY])), SAME),
    "a dn that is none": (lambda users, groups: users.get(dn="what?"), SAME),
    "exact": (lambda users, groups: uids(users.filter(uid="user003")), ["user003"]),
    "contains": (lambda users, groups: uids(users.filter(cn__contains="r 01")), ALL[10:20]),
    "startswith": (lambda users, groups: uids(users.filter(uid__startswith="user02")), ALL[20:30]),
    "endswith": (lambda users, groups: uids(users.filter(uid__endswith="7")), ALL[7::10]),
    "in": (lambda users, groups: uids(users.filter(uid__in=["user001", "user002", "x"])), ALL[1:3]),
    "in of numbers": (lambda users, groups: uids(users.filter(number__in=[FIRST_ID, 1])), ALL[:1]),
    "gte": (lambda users, groups: uids(users.filter(number__gte=FIRST_ID + USERS - 2)), ALL[-2:]),
    "lte": (lambda users, groups: uids(users.filter(number__lte=FIRST_ID + 1)), ALL[:2]),
    "and": (lambda users, groups: uids(users.filter(Q(team=FIRST_ID) & Q(uid__contains="2"))), ["user020"]),
    "or": (lambda users, groups: uids(users.filter(Q(uid="user001") | Q(sn="002"))), ALL[1:3]),
    "not": (lambda users, groups: uids(users.filter(~Q(uid__startswith="user0"))), []),
    "exclude": (lambda users, groups: uids(users.exclude(number__gte=FIRST_ID + 3)), ALL[:3]),
    "nested": (
        lambda users, groups: uids(users.filter(Q(uid="user001") | (Q(team=FIRST_ID) & ~Q(uid="user000")))),
        ["user001", *ALL[10::TEAMS]],
    ),
    "what has to be escaped": (lambda users, groups: uids(users.filter(cn="*)(uid=*")), []),
    "none": (lambda users, groups: uids(users.none()), []),
    "all": (lambda users, groups: uids(users.all()), ALL),
    "order": (lambda users, groups: uids(users.order_by("-number")), ALL[::-1]),
    "order by two": (lambda users, groups: uids(users.order_by("team", "-uid")[:2]), [ALL[30], ALL[20]]),
    "order by dn": (lambda users, groups: uids(users.order_by("-dn")), ALL[::-1]),
    "reverse": (lambda users, groups: uids(users.reverse()), SAME),
    "slice": (lambda users, groups: uids(users.all()[5:8]), ALL[5:8]),
    "slice from the start": (lambda users, groups: uids(users.all()[:3]), ALL[:3]),
    "slice to the end": (lambda users, groups: uids(users.all()[USERS - 2 :]), ALL[-2:]),
    "index": (lambda users, groups: users.all()[5].uid, ALL[5]),
    "first": (lambda users, groups: users.first().uid, ALL[0]),
    "last": (lambda users, groups: users.last().uid, SAME),
    "count": (lambda users, groups: users.count(), USERS),
    "count of a filter": (lambda users, groups: users.filter(team=FIRST_ID).count(), USERS // TEAMS),
    "count of a slice": (lambda users, groups: users.all()[:3].count(), SAME),
    "count of nobody": (lambda users, groups: users.filter(uid="nobody").count(), SAME),
    "aggregate": (lambda users, groups: users.aggregate(most=models.Max("number")), SAME),
    "exists": (lambda users, groups: users.filter(uid="user001").exists(), SAME),
    "exists of nobody": (lambda users, groups: users.filter(uid="nobody").exists(), SAME),
    "values": (
        lambda users, groups: list(users.filter(uid="user001").values("uid", "number")),
        [{"uid": "user001", "number": FIRST_ID + 1}],
    ),
    "values_list": (lambda users, groups: list(users.values_list("uid", "sn")[:1]), SAME),
    "flat": (lambda users, groups: list(users.values_list("uid", flat=True)), ALL),
    "distinct": (lambda users, groups: len(users.order_by("team").values_list("team").distinct()), TEAMS),
    "only": (lambda users, groups: uids(users.only("uid")[:2]), SAME),
    "in_bulk": (lambda users, groups: sorted(users.in_bulk(["user001"])), SAME),
    "iterator": (lambda users, groups: uids(users.iterator()), ALL),
    "truth": (lambda users, groups: bool(users.filter(uid="nobody")), False),
    "list": (lambda users, groups: sorted(groups.get(name="team1").members), ALL[1::TEAMS]),
    "list contains": (
        lambda users, groups: [group.name for group in groups.filter(members__contains="user001")],
        ["team1"],
    ),
    "select_for_update": (lambda users, groups: uids(users.select_for_update()), SAME),
    "raw": (lambda users, groups: uids(users.raw("(uid=user001)")), SAME),
}


def uids(users: Iterable[Any]) -> list[str]:
    return [user.uid for user in users]


def outcome(function: Callable[..., Any], *arguments: Any) -> Any:
    """What it returns, or the type of what it raises."""
    try:
        return function(*arguments)
    except Exception as error:
        return type(error)


def managers(alias: str) -> tuple[Any, Any]:
    return User.objects.using(alias), Group.objects.using(alias)


@pytest.mark.parametrize("read", READS)
def test_reading(read: str, everywhere: Setting, stock: str) -> None:
    function, expected = READS[read]
    result = outcome(function, *managers(everywhere.alias))
    assert result == outcome(function, *managers(stock))
    assert result == expected or expected is SAME
    # Once more, on what the first one has left.
    assert outcome(function, *managers(everywhere.alias)) == result


# -- writing --------------------------------------------------------------------------------------------

# Each gets an alias and leaves entries whose names begin with "new".


def create(alias: str) -> Any:
    new(uid="new1", number=7).save(using=alias)
    user = User.objects.using(alias).get(uid="new1")
    return user.dn, user.number, user.phones


def create_by_the_manager(alias: str) -> Any:
    values = {"cn": "1", "sn": "1", "number": 1, "team": 1, "home": "/"}
    user = User.objects.using(alias).create(uid="new1", **values)
    return user.dn, uids(User.objects.using(alias).filter(uid="new1"))


def create_twice(alias: str) -> Any:
    new(uid="new1").save(using=alias)
    return outcome(lambda: new(uid="new1").save(using=alias))


def create_without_what_it_must_have(alias: str) -> Any:
    return outcome(lambda: new(uid="new1", sn="").save(using=alias))


def get_or_create(alias: str) -> Any:
    values = {"cn": "1", "sn": "1", "number": 1, "team": 1, "home": "/"}
    users = User.objects.using(alias)
    return [outcome(lambda: users.get_or_create(uid="new1", defaults=values)[1]) for _ in range(2)]


def modify(alias: str) -> Any:
    new(uid="new1", mail="old@example.org").save(using=alias)
    user = User.objects.using(alias).get(uid="new1")
    user.mail, user.number, user.phones = "new@example.org", 12, ["1", "2"]
    user.save()
    user = User.objects.using(alias).get(uid="new1")
    result = [user.mail, user.number, sorted(user.phones)]
    user.mail, user.phones = "", []
    user.save()
    user = User.objects.using(alias).get(uid="new1")
    return [*result, user.mail, user.phones]


def modify_nothing(alias: str) -> Any:
    new(uid="new1").save(using=alias)
    User.objects.using(alias).get(uid="new1").save()
    return uids(User.objects.using(alias).filter(uid="new1"))


def modify_one_field(alias: str) -> Any:
    new(uid="new1", mail="a@example.org").save(using=alias)
    user = User.objects.using(alias).get(uid="new1")
    user.mail, user.number = "b@example.org", 1
    return outcome(lambda: user.save(update_fields=["mail"])), list(
        User.objects.using(alias).filter(uid="new1").values_list("mail", "number")
    )


def rename(alias: str) -> Any:
    new(uid="new1").save(using=alias)
    user = User.objects.using(alias).get(uid="new1")
    user.uid, user.mail = "new2", "new2@example.org"
    user.save()
    return user.dn, uids(User.objects.using(alias).filter(uid__startswith="new"))


def rename_to_one_that_is_there(alias: str) -> Any:
    new(uid="new1").save(using=alias)
    user = User.objects.using(alias).get(uid="new1")
    user.uid = "user001"
    return outcome(user.save)


def delete(alias: str) -> Any:
    new(uid="new1").save(using=alias)
    User.objects.using(alias).get(uid="new1").delete()
    return uids(User.objects.using(alias).filter(uid="new1"))


def delete_what_is_gone(alias: str) -> Any:
    new(uid="new1").save(using=alias)
    user = User.objects.using(alias).get(uid="new1")
    user.delete()
    return outcome(user.delete)


def delete_some(alias: str) -> Any:
    for number in range(3):
        new(uid=f"new{number}").save(using=alias)
    return outcome(lambda: User.objects.using(alias).filter(uid__startswith="new").delete()), uids(
        User.objects.using(alias).filter(uid__startswith="new")
    )


def update_some(alias: str) -> Any:
    new(uid="new1").save(using=alias)
    return outcome(lambda: User.objects.using(alias).filter(uid="new1").update(mail="x"))


def a_list(alias: str) -> Any:
    groups = Group.objects.using(alias)
    Group(name="new1", number=1, members=["a", "b"]).save(using=alias)
    group = groups.get(name="new1")
    group.members.append("c")
    group.save()
    result = sorted(groups.get(members__contains="c", name="new1").members)
    group.members.remove("a")
    group.save()
    return result, sorted(groups.get(name="new1").members)


def true_or_false(alias: str) -> Any:
    accounts = Account.objects.using(alias)
    new(Account, "new1", is_active=True).save(using=alias)
    new(Account, "new2", is_active=False).save(using=alias)
    result = uids(accounts.filter(is_active=True)), uids(accounts.filter(is_active=False))
    account = accounts.get(uid="new1")
    account.is_active = False
    account.save()
    return result, [account.is_active for account in accounts.all()]


WRITES = {
    create: (f"uid=new1,{Slapd.people_dn}", 7, []),
    create_by_the_manager: (f"uid=new1,{Slapd.people_dn}", ["new1"]),
    create_twice: ldap.ALREADY_EXISTS,
    create_without_what_it_must_have: ldap.OBJECT_CLASS_VIOLATION,
    get_or_create: [True, False],
    modify: ["new@example.org", 12, ["1", "2"], "", []],
    modify_nothing: ["new1"],
    modify_one_field: SAME,
    rename: (f"uid=new2,{Slapd.people_dn}", ["new2"]),
    rename_to_one_that_is_there: ldap.ALREADY_EXISTS,
    delete: [],
    delete_what_is_gone: ldap.NO_SUCH_OBJECT,
    delete_some: SAME,
    update_some: SAME,
    a_list: (["a", "b", "c"], ["b", "c"]),
    true_or_false: ((["new1"], ["new2"]), [False, False]),
}


@pytest.mark.parametrize("write", WRITES, ids=lambda function: function.__name__)
def test_writing(write: Callable[[str], Any], everywhere: Setting, stock: str, server: Slapd) -> None:
    result = outcome(write, everywhere.alias), remove_new(server)
    assert result == (outcome(write, stock), remove_new(server))
    assert result[0] == WRITES[write] or WRITES[write] is SAME


def test_errors_about_data_are_no_errors_of_djangos(everywhere: Setting) -> None:
    new(uid="new1").save()
    with pytest.raises(ldap.ALREADY_EXISTS) as raised:
        new(uid="new1").save()
    assert type(raised.value) is ldap.ALREADY_EXISTS
    with pytest.raises(ObjectDoesNotExist):
        User.objects.get(uid="nobody")


# -- the admin --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["request", "transaction"])
@pytest.mark.parametrize("most", [1, 8])
def test_the_admin(scope: str, most: int, configure: Configure) -> None:
    configure(POOL={"SIZE": most, "MAX_OUTSTANDING": most, "SCOPE": scope})
    model = get_user_model()
    model.objects.filter(username="boss").delete()
    client = Client()
    client.force_login(model.objects.create_superuser("boss", "boss@example.org", "secret"))
    page = client.get("/admin/ldap_backend/user/", {"q": "user00"})
    assert page.status_code == 200
    assert all(uid.encode() in page.content for uid in ALL[:10])
    assert ALL[10].encode() not in page.content
    new(uid="new1", mail="old@example.org").save()
    path = f"/admin/ldap_backend/user/uid_3Dnew1_2C{Slapd.people_dn.replace('=', '_3D').replace(',', '_2C')}/"
    page = client.get(path + "change/")
    assert page.status_code == 200 and b"old@example.org" in page.content
    fields = {"uid": "new1", "cn": "1", "sn": "1", "mail": "new@example.org", "number": 1, "team": 1}
    page = client.post(path + "change/", fields | {"home": "/", "phones": ""})
    assert page.status_code == 302, page.content
    assert User.objects.get(uid="new1").mail == "new@example.org"
