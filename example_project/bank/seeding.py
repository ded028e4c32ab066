"""The invented bank: the same customers, accounts and transfers for the same arguments. Knows no database."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import product

COLOURS = """
    Amber Azure Bronze Cobalt Copper Coral Crimson Ebony Emerald Golden Indigo Ivory
    Jade Lilac Olive Pearl Russet Saffron Sage Scarlet Silver Slate Teal Umber
"""
TRADES = """
    Bakery Bindery Bookshop Brewery Candles Carpentry Ceramics Chandlery Cheeses Clockworks Cycles Dairy
    Florists Foundry Gardens Instruments Joinery Letterpress Lighting Looms Orchard Pottery Roastery Sails
"""
TOWNS = """
    Ashmere Brackwater Coldharrow Dunwater Eastmarsh Fenbrook Greyhollow Hollowell Larkmoor Millbeck
"""
REFERENCES = (
    "Invoice {n}",
    "Order {n}",
    "Delivery {n}",
    "Rent",
    "Deposit",
    "Repairs",
    "Timber",
    "Tools",
    "Flour and yeast",
    "Glaze and clay",
    "Paper and ink",
    "Spare parts",
    "Workshop hire",
    "Market stall",
    "Window display",
    "Harvest share",
)

SPAN = timedelta(days=180)
ACCOUNTS_PER_CUSTOMER = 1.6
POOR = 10_000  # cents


@dataclass
class PlannedAccount:
    number: str
    customer: str
    kind: str
    opening: int
    balance: int = field(init=False)

    def __post_init__(self) -> None:
        self.balance = self.opening


@dataclass(frozen=True)
class PlannedTransfer:
    source: str
    target: str
    amount: int
    reference: str
    made_at: datetime


@dataclass(frozen=True)
class Plan:
    towns: dict[str, str]
    accounts: list[PlannedAccount]
    transfers: list[PlannedTransfer]


def plan(accounts: int, transfers: int, until: datetime) -> Plan:
    dice = random.Random(f"tuppence {accounts} {transfers}")
    towns = _customers(dice, max(1, round(accounts / ACCOUNTS_PER_CUSTOMER)))
    planned = _accounts(dice, list(towns), accounts)
    return Plan(towns, planned, _transfers(dice, planned, transfers, until))


def _customers(dice: random.Random, count: int) -> dict[str, str]:
    names = [" ".join(words) for words in product(COLOURS.split(), TRADES.split())]
    dice.shuffle(names)
    rounds = range(1, -(-count // len(names)) + 1)
    numbered = (name if n == 1 else f"{name} No. {n}" for n, name in product(rounds, names))
    towns = TOWNS.split()
    return {name: dice.choice(towns) for name, _ in zip(numbered, range(count), strict=False)}


def _accounts(dice: random.Random, customers: list[str], count: int) -> list[PlannedAccount]:
    """A current account for each customer first, then savings accounts for some."""
    owners = [(name, "current") for name in customers[:count]]
    owners += [(dice.choice(customers), "savings") for _ in range(count - len(owners))]
    dice.shuffle(owners)
    return [
        PlannedAccount(f"TB-{n:06}", name, kind, dice.randrange(50_000, 2_000_000))
        for n, (name, kind) in enumerate(owners, start=1)
    ]


def _transfers(
    dice: random.Random, accounts: list[PlannedAccount], count: int, until: datetime
) -> list[PlannedTransfer]:
    """In the order of their times. Nobody sends more than a third of what they have."""
    if len(accounts) < 2:
        return []
    seconds = sorted(dice.randrange(int(SPAN.total_seconds())) for _ in range(count))
    made = []
    for second in seconds:
        source, target = dice.sample(accounts, 2)
        if source.balance < POOR and source.balance < target.balance:
            source, target = target, source
        amount = max(1, min(int(10 ** dice.uniform(2.7, 5.4)), source.balance // 3))
        source.balance -= amount
        target.balance += amount
        reference = dice.choice(REFERENCES).format(n=dice.randrange(1000, 10000))
        made_at = until - SPAN + timedelta(seconds=second)
        made.append(PlannedTransfer(source.number, target.number, amount, reference, made_at))
    return made
