"""Payments: their states, their routes, their story."""

from custody.payments.transitions import (
    TRANSITIONS,
    PaymentState,
    TransitionRefused,
    legal_moves,
    lock_payment,
    lock_payments,
    move_payment,
)

__all__ = [
    "TRANSITIONS",
    "PaymentState",
    "TransitionRefused",
    "legal_moves",
    "lock_payment",
    "lock_payments",
    "move_payment",
]
