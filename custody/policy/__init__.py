"""Genesis, policy and address book: what the fleet may do with money, signed by k approvers (R3, R8, R10).

Pure: files, clock, approvals and what was handed out are all given. ``load_folder`` says what may be believed, ``judge``
what it says of a request, ``policy_differences`` what a new version changes.
"""

from custody.policy.address_book import AddressBook, AddressBookEntry
from custody.policy.break_glass import BreakGlass
from custody.policy.differences import Difference, loosens, policy_differences
from custody.policy.engine import judge, strictest
from custody.policy.genesis import Genesis
from custody.policy.in_force import (
    InForce,
    SignedFolder,
    accept,
    read_genesis,
    read_in_force,
    require_genesis_treasuries,
)
from custody.policy.refusals import PolicyRefused
from custody.policy.requests import Approval, Decision, HandOut, Request, Situation, Word
from custody.policy.rules import Policy
from custody.policy.verified import (
    Accepted,
    Verified,
    VerifiedGenesis,
    VerifiedPolicy,
    binds_at,
    load_folder,
    verify_address_book,
    verify_genesis,
    verify_policy,
)

__all__ = [
    "Accepted",
    "AddressBook",
    "AddressBookEntry",
    "Approval",
    "BreakGlass",
    "Decision",
    "Difference",
    "Genesis",
    "HandOut",
    "InForce",
    "Policy",
    "PolicyRefused",
    "Request",
    "SignedFolder",
    "Situation",
    "Verified",
    "VerifiedGenesis",
    "VerifiedPolicy",
    "Word",
    "accept",
    "binds_at",
    "judge",
    "load_folder",
    "loosens",
    "policy_differences",
    "read_genesis",
    "read_in_force",
    "require_genesis_treasuries",
    "strictest",
    "verify_address_book",
    "verify_genesis",
    "verify_policy",
]
