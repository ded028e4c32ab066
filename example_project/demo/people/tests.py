"""They want the directory that LDAP_URL names to be the demo's: clerks user000 to user099 in ten teams."""

from __future__ import annotations

import io
from contextlib import contextmanager
from itertools import groupby
from types import SimpleNamespace
from unittest import SkipTest
from unittest.mock import patch

from django.apps import apps

if not apps.is_installed("people"):
    raise SkipTest("these are not the settings with a directory, people.settings")

import ldap
from bank.elsewhere import RATES
from bank.models import Account
from bank.templatetags.money import money
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import OperationalError, connections
from django.db.models import Sum
from django.test import TransactionTestCase

from people.clerks import accounts_by_clerk, accounts_of, clerk_of
from people.models import Person, Team

CLERKS = 100


class DirectoryTestCase(TransactionTestCase):
    """A directory has no transactions, so Django's TestCase can't use them for the database either."""

    databases = {"default", "directory"}

    def setUp(self):
        call_command("seed", "--accounts=120", "--transfers=0", stdout=io.StringIO())
        self.account = Account.objects.get(number="TB-000007")

    @contextmanager
    def searches(self):
        """The filters of the searches that are made, and "call" for the slow call to another service."""
        directory, made = connections["directory"], []
        search = directory.search_s

        def noting(base, scope, filterstr, attrlist):
            made.append(filterstr)
            return search(base, scope, filterstr, attrlist)

        with (
            patch.object(directory, "search_s", noting),
            # Not time's own function: other threads sleep, too.
            patch("bank.elsewhere.time", SimpleNamespace(sleep=lambda seconds: made.append("call"))),
        ):
            yield made


class PeoplePageTests(DirectoryTestCase):
    def page(self, **query):
        return self.client.get("/people/", query)

    def uids(self, **query) -> list[str]:
        return [row["person"].uid for row in self.page(**query).context["rows"]]

    def test_the_list_is_paged(self):
        uids = [uid for n in (1, 2, 3, 4) for uid in self.uids(page=n)]
        self.assertEqual(uids, [f"user{n:03}" for n in range(CLERKS)])
        self.assertContains(self.page(), "Page 1 of 4")

    def test_each_has_a_team_and_a_number_of_accounts(self):
        rows = [row for n in (1, 2, 3, 4) for row in self.page(page=n).context["rows"]]
        self.assertEqual(
            [[team.name for team in row["teams"]] for row in rows[25:27]], [["team5"], ["team6"]]
        )
        accounts = {row["person"].uid: row["accounts"] for row in rows}
        self.assertEqual([accounts[f"user0{n}"] for n in ("07", "20", "99")], [2, 2, 1])

    def test_the_search_wants_every_word(self):
        self.assertEqual(self.uids(q="USER team3 example.org 4"), ["user043"])
        self.assertEqual(self.uids(q="user 012"), ["user012"])
        self.assertEqual(len(self.uids(q="team3")), 10)
        self.assertContains(self.page(q="nobody at all"), "Nobody found")

    def test_the_pages_of_a_search_keep_the_search(self):
        self.assertContains(self.page(q="user0"), "?q=user0&amp;page=2")

    def test_what_is_searched_for_is_not_a_filter(self):
        for search in ("*", ")(uid=*", "user00*", "\\2a", "\0"):
            with self.subTest(search):
                self.assertEqual(len(self.uids(q=search)), 25 if search == "\0" else 0)

    def test_it_is_in_the_navigation(self):
        self.assertContains(self.client.get("/"), '<a href="/people/">People</a>')


class PersonPageTests(DirectoryTestCase):
    def test_it_searches_before_and_after_the_slow_call(self):
        with self.searches() as made:
            self.client.get("/people/user007/")
        # django-ldapdb sends each search twice, for names only to begin with.
        self.assertEqual([what == "call" for what, _ in groupby(made)], [False, True, False])

    def test_it_shows_what_the_clerk_looks_after_and_with_whom(self):
        response = self.client.get("/people/user007/")
        accounts = accounts_of("user007")
        self.assertEqual([account.number for account in accounts], ["TB-000007", "TB-000107"])
        for account in accounts:
            self.assertContains(response, account.get_absolute_url())
        held = accounts.aggregate(total=Sum("balance"))["total"]
        self.assertContains(response, money(held))
        self.assertContains(response, f"{held / 100 * float(RATES['USD']):,.2f} USD")
        self.assertContains(response, '<a class="code" href="/people/user097/">')
        self.assertNotContains(response, '<a class="code" href="/people/user007/">')

    def test_who_is_not_there_is_not_found(self):
        for uid in ("nobody", "user*", "*"):
            self.assertEqual(self.client.get(f"/people/{uid}/").status_code, 404)


class ClerkTests(DirectoryTestCase):
    def test_an_accounts_page_names_the_clerk(self):
        response = self.client.get(self.account.get_absolute_url())
        self.assertContains(response, 'looked after by <a href="/people/user007/">User 007</a>')

    def test_an_accounts_page_does_without_a_directory_that_is_away(self):
        for failure in (ldap.SERVER_DOWN, OperationalError):
            with (
                patch.object(connections["directory"], "search_s", side_effect=failure),
                self.assertLogs("people.clerks", "WARNING"),
            ):
                response = self.client.get(self.account.get_absolute_url())
            self.assertContains(response, money(self.account.balance))
            self.assertNotContains(response, "looked after by")

    def test_every_account_has_a_clerk_who_says_so(self):
        for account in Account.objects.all()[:10]:
            self.assertIn(account, accounts_of(clerk_of(account).uid))
        self.assertEqual(sum(accounts_by_clerk().values()), 120)

    def test_who_is_no_clerk_looks_after_nothing(self):
        for uid in ("user100", "user01", "somebody07"):
            self.assertFalse(accounts_of(uid).exists())


class AdminTests(DirectoryTestCase):
    def setUp(self):
        super().setUp()
        admin = get_user_model().objects.create_superuser("demo")
        self.client.force_login(admin)

    def test_it_lists_and_finds_people(self):
        self.assertContains(self.client.get("/admin/people/person/"), f"{CLERKS} people")
        self.assertContains(self.client.get("/admin/people/person/", {"q": "user04"}), "10 results")
        self.assertContains(self.client.get("/admin/people/person/", {"o": "-2"}), "user099")

    def test_it_shows_a_person_and_changes_nobody(self):
        url = "/admin/people/person/user007/change/"
        response = self.client.get(url)
        self.assertContains(response, "user007@example.org")
        self.assertNotContains(response, 'name="_save"')
        self.assertEqual(self.client.post(url, {"name": "Other"}).status_code, 403)
        self.assertEqual(self.client.get("/admin/people/person/add/").status_code, 403)
        self.assertEqual(Person.objects.get(uid="user007").name, "User 007")


class ModelTests(DirectoryTestCase):
    def test_a_team_knows_its_members(self):
        self.assertEqual(Team.objects.count(), 10)
        self.assertEqual(Team.objects.get(members__contains="user042").members[:2], ["user002", "user012"])
