"""When transactions begin and end."""

from __future__ import annotations

from django_db_pooling.lease import Leasing


class Transactions(Leasing):
    """Begins and ends transactions as Django's atomic() says."""

    def set_autocommit(
        self, autocommit: bool, force_begin_transaction_with_broken_autocommit: bool = False
    ) -> None:
        if (
            autocommit
            and self.connection is None
            and self.settings_dict["AUTOCOMMIT"]
            and not self.run_commit_hooks_on_set_autocommit_on
        ):
            # An atomic block whose connection was lost ends here. The next connection has autocommit on.
            self.validate_no_atomic_block()
            self.autocommit = True
            return
        super().set_autocommit(autocommit, force_begin_transaction_with_broken_autocommit)
        self._by_hand = not autocommit and not force_begin_transaction_with_broken_autocommit
