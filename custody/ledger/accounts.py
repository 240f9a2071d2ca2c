"""The accounts of a book: which side each is on, as fleet.ledger_balances has a column for each (design §4)."""

from typing import Final

DEBIT_ACCOUNTS: Final = (
    "destination", "treasury", "transfer_cost", "loss", "gas_payer", "gas_float", "treasury_house", "gas_spent",
    "in_transit", "payer_paid",
)  # fmt: skip
"""Assets and expenses: a debit raises them, a credit lowers them."""

CREDIT_ACCOUNTS: Final = (
    "detected", "held", "disputed", "releasing", "refunding", "paying_fees", "platform_fees", "provider_fees",
    "suspense", "overdraft", "gas_funding", "provider_received",
)  # fmt: skip
"""Liabilities, equity and overdraft: a credit raises them, a debit lowers them."""

ACCOUNTS: Final = DEBIT_ACCOUNTS + CREDIT_ACCOUNTS
