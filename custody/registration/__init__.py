"""Registration of the marketplace's Trezors: who proved which account, and the addresses issued from it (R3, R6).

``texts`` and ``proof`` are pure. The signer API only keeps what is handed in (``challenges``); the housekeeping worker
judges it (``judging``); people invite, revoke and have addresses issued (``accounts``).
"""

from custody.registration.accounts import IssuedAddress, invite, issue_address, revoke
from custody.registration.challenges import OpenChallenge, hand_in, open_challenge
from custody.registration.judging import judge_registrations
from custody.registration.proof import RegistrationRefused
from custody.registration.texts import ApiPlace, register_text

__all__ = [
    "ApiPlace",
    "IssuedAddress",
    "OpenChallenge",
    "RegistrationRefused",
    "hand_in",
    "invite",
    "issue_address",
    "judge_registrations",
    "open_challenge",
    "register_text",
    "revoke",
]
