from __future__ import annotations

from django import template

register = template.Library()


@register.filter
def money(cents: int) -> str:
    """123456 is €1,234.56; a true minus sign lines up with the digits."""
    euros, rest = divmod(abs(cents), 100)
    return f"{'−' if cents < 0 else ''}€{euros:,}.{rest:02}"


@register.filter
def signed_money(cents: int) -> str:
    return f"+{money(cents)}" if cents > 0 else money(cents)
