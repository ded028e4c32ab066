from __future__ import annotations

import io
import os
import threading
from datetime import UTC, datetime
from unittest.mock import patch

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connection
from django.db.models import F, Q, Sum
from django.test import TestCase, TransactionTestCase, skipUnlessDBFeature
from django.urls import reverse

from bank.charts import sparkline
from bank.models import Account, Customer, Transfer
from bank.seeding import plan
from bank.templatetags.money import money
from bank.transfers import TransferRefused, transfer


def make_account(name: str, balance: int, number: str) -> Account:
    customer = Customer.objects.create(name=name, town="Millbeck")
    return Account.objects.create(number=number, customer=customer, opening=balance, balance=balance)


def held_by_all() -> int:
    return Account.objects.aggregate(total=Sum("balance"))["total"]


class SeedTests(TestCase):
    def seed(self, *arguments: str) -> str:
        out = io.StringIO()
        call_command("seed", "--accounts=30", "--transfers=200", *arguments, stdout=out)
        return out.getvalue()

    def test_every_balance_is_the_opening_and_the_transfers(self):
        self.seed()
        self.assertEqual((Account.objects.count(), Transfer.objects.count()), (30, 200))
        for account in Account.objects.all():
            received = account.received.aggregate(total=Sum("amount", default=0))["total"]
            sent = account.sent.aggregate(total=Sum("amount", default=0))["total"]
            self.assertEqual(account.balance, account.opening + received - sent)

    def test_all_accounts_together_hold_what_they_were_opened_with(self):
        self.seed()
        self.assertEqual(held_by_all(), Account.objects.aggregate(total=Sum("opening"))["total"])

    def test_a_second_seed_changes_nothing(self):
        self.seed()
        before = list(Account.objects.values_list("number", "balance"))
        self.assertIn("left as it is", self.seed())
        self.assertEqual(list(Account.objects.values_list("number", "balance")), before)
        self.assertEqual(Transfer.objects.count(), 200)

    def test_the_same_arguments_give_the_same_bank(self):
        until = datetime(2024, 5, 1, tzinfo=UTC)
        self.assertEqual(plan(40, 300, until), plan(40, 300, until))

    def test_more_customers_than_names_still_have_a_name_each(self):
        until = datetime(2024, 5, 1, tzinfo=UTC)
        planned = plan(2000, 0, until)
        self.assertEqual(len(planned.towns), 1250)

    def test_the_demo_admin_can_log_in_to_the_admin(self):
        with patch.dict("os.environ", DEMO_ADMIN_PASSWORD="known"):
            self.seed("--demo-admin")
        self.assertTrue(get_user_model().objects.get(username="demo").is_superuser)
        self.assertTrue(self.client.login(username="demo", password="known"))
        self.assertContains(self.client.get("/admin/bank/transfer/"), "Transfers")
        self.assertContains(self.client.get("/admin/bank/account/add/"), "Opening")


class PageTests(TestCase):
    # Where there is a directory, an account's page asks it for the clerk.
    databases = "__all__"

    @classmethod
    def setUpTestData(cls):
        call_command("seed", "--accounts=60", "--transfers=400", stdout=io.StringIO())

    def test_every_page_answers(self):
        pk = Account.objects.first().pk
        for path in (
            "/",
            "/transfers/",
            "/transfers/new/",
            "/quote/",
            f"/mixed/{pk}.json",
            f"/mixed-released/{pk}.json",
            f"/mixed-transaction/{pk}.json",
            "/healthz",
        ):
            with self.subTest(path):
                self.assertEqual(self.client.get(path).status_code, 200)

    def test_the_front_page_says_that_the_books_balance(self):
        self.assertContains(self.client.get("/"), "The books balance")
        Account.objects.filter(pk=Account.objects.first().pk).update(balance=F("balance") + 1)
        self.assertContains(self.client.get("/"), "do not balance")

    def test_the_list_is_paged(self):
        pages = [self.client.get("/accounts/", {"page": n}).context["page"] for n in (1, 2, 3)]
        self.assertEqual([len(page) for page in pages], [25, 25, 10])
        numbers = [account.number for page in pages for account in page]
        self.assertEqual(numbers, sorted(set(numbers)))

    def test_the_search_wants_every_word(self):
        account = Account.objects.select_related("customer").first()
        search = f"{account.customer.name.upper()} {account.number[-4:]}"
        self.assertEqual(list(self.client.get("/accounts/", {"q": search}).context["page"]), [account])
        self.assertContains(self.client.get("/accounts/", {"q": "nobody at all"}), "Nothing found")

    def test_the_pages_of_a_search_keep_the_search(self):
        self.assertContains(self.client.get("/accounts/", {"q": "TB-&"}), "TB-&amp;")
        self.assertContains(self.client.get("/accounts/", {"q": "TB-"}), "?q=TB-&amp;page=2")

    def test_a_statement_adds_up(self):
        for account in Account.objects.all()[:5]:
            statement = list(Transfer.objects.statement_of(account))
            of_account = Q(source=account) | Q(target=account)
            self.assertEqual(len(statement), Transfer.objects.filter(of_account).count())
            running = account.opening
            for entry in reversed(statement):
                running += entry.change
                self.assertEqual(entry.balance_after, running)
            self.assertEqual(running, account.balance)

    def test_the_detail_page_shows_the_balance_and_its_line(self):
        account = Account.objects.first()
        response = self.client.get(account.get_absolute_url())
        self.assertContains(response, money(account.balance))
        self.assertContains(response, "<polyline")

    def test_a_quote_is_for_all_accounts_of_the_customer(self):
        account = Account.objects.first()
        with patch("bank.elsewhere.time") as time:
            response = self.client.get("/quote/", {"account": account.number.lower(), "currency": "USD"})
        time.sleep.assert_called_once()
        held = account.customer.accounts.aggregate(total=Sum("balance"))["total"]
        self.assertContains(response, money(held))
        self.assertContains(response, "simulated")

    def test_static_files_are_served_with_debug_off(self):
        response = self.client.get("/static/bank/bank.css")
        self.assertEqual(response["Content-Type"], "text/css")
        self.assertIn(b"prefers-color-scheme", b"".join(response.streaming_content))


class EndpointTests(TestCase):
    def test_a_balance_is_exactly_one_query(self):
        account = make_account("Amber Bakery", 12_345, "TB-1")
        with self.assertNumQueries(1):
            response = self.client.get(reverse("balance", args=[account.pk]))
        self.assertEqual(response.json(), {"number": "TB-1", "balance": 12_345})

    def test_mixed_is_a_query_on_each_side_of_the_slow_call(self):
        account = make_account("Amber Bakery", 12_345, "TB-1")
        with patch("bank.elsewhere.time") as time, self.assertNumQueries(2):
            response = self.client.get(reverse("mixed", args=[account.pk]))
        time.sleep.assert_called_once()
        self.assertEqual(response.json()["received"], 0)

    def test_an_unknown_account_is_not_found(self):
        for name in ("balance", "mixed"):
            response = self.client.get(reverse(name, args=[404]))
            self.assertEqual((response.status_code, response["Content-Type"]), (404, "application/json"))

    def test_health_and_pool_take_no_query(self):
        with self.assertNumQueries(0):
            self.assertEqual(self.client.get("/healthz").content, b"ok\n")
            self.assertIn("pools", self.client.get("/pool.json").json())
            # What prometheus_client itself has to say is there without the pools, too.
            metrics = self.client.get("/metrics")
            self.assertContains(metrics, "python_info")
            if os.environ.get("POOLING") != "off":
                self.assertContains(metrics, "# TYPE django_db_pool_size gauge")


class TransferTests(TestCase):
    databases = "__all__"

    def setUp(self):
        self.bakery = make_account("Amber Bakery", 10_000, "TB-1")
        self.dairy = make_account("Teal Dairy", 500, "TB-2")

    def post(self, source: str, target: str, amount: str):
        fields = {"source": source, "target": target, "amount": amount, "reference": "Butter"}
        return self.client.post("/transfers/new/", fields, follow=True)

    def balances(self) -> tuple[int, ...]:
        return tuple(Account.objects.values_list("balance", flat=True))

    def test_money_moves_and_the_next_page_says_so(self):
        response = self.post("TB-1", "TB-2", "12.34")
        self.assertRedirects(response, self.bakery.get_absolute_url())
        self.assertContains(response, "€12.34 went from TB-1 to TB-2.")
        self.assertEqual(self.balances(), (8_766, 1_734))
        made = Transfer.objects.get()
        self.assertEqual((made.source, made.target, made.amount), (self.bakery, self.dairy, 1_234))

    def test_an_overdraft_is_refused(self):
        self.assertContains(self.post("TB-2", "TB-1", "5.01"), "TB-2 does not hold that much.")
        self.assertEqual((self.balances(), Transfer.objects.count()), ((10_000, 500), 0))

    def test_all_of_a_balance_can_be_sent(self):
        self.post("TB-2", "TB-1", "5.00")
        self.assertEqual(self.balances(), (10_500, 0))

    def test_the_same_account_twice_is_refused(self):
        self.assertContains(self.post("TB-1", "TB-1", "1.00"), "the same account")
        self.assertEqual(Transfer.objects.count(), 0)

    def test_nothing_and_less_than_nothing_are_refused(self):
        for amount in ("0", "-1", "0.001", "much"):
            self.assertEqual(self.post("TB-1", "TB-2", amount).status_code, 200)
        with self.assertRaises(TransferRefused):
            transfer(self.bakery.pk, self.dairy.pk, 0)
        self.assertEqual(self.balances(), (10_000, 500))

    def test_an_unknown_account_is_refused(self):
        self.assertContains(self.post("TB-1", "TB-9", "1.00"), "There is no account with this number.")
        with self.assertRaises(TransferRefused):
            transfer(self.bakery.pk, self.dairy.pk + 1, 1)


class ConcurrentTransferTests(TransactionTestCase):
    """Opposite transfers at once: without one lock order two of them wait for each other's account."""

    @skipUnlessDBFeature("has_select_for_update")
    def test_opposite_transfers_lose_and_make_nothing(self):
        bakery = make_account("Amber Bakery", 10_000, "TB-1")
        dairy = make_account("Teal Dairy", 10_000, "TB-2")
        start, failures = threading.Barrier(4), []

        def send(source: Account, target: Account) -> None:
            try:
                start.wait(10)
                for _ in range(20):
                    transfer(source.pk, target.pk, 7)
            except Exception as failure:
                failures.append(failure)
            finally:
                connection.close()

        pairs = [(bakery, dairy), (dairy, bakery)] * 2
        threads = [threading.Thread(target=send, args=pair) for pair in pairs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        self.assertEqual(Transfer.objects.count(), 80)
        self.assertEqual(set(Account.objects.values_list("balance", flat=True)), {10_000})


class DrawingTests(TestCase):
    def test_money_has_separators_and_two_digits(self):
        self.assertEqual(
            [money(n) for n in (5, 123_456_789, -250)],
            ["€0.05", "€1,234,567.89", "−€2.50"],
        )

    def test_a_line_needs_two_values_and_a_flat_one_is_drawn(self):
        self.assertIsNone(sparkline([1]))
        self.assertEqual(sparkline([7, 7], width=100, height=50).line, "6.0,44.0 94.0,44.0")
