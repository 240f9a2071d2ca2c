"""Sessions at the signer API (R6): who logged in with which device, for how long, and how that ends.

``texts`` and ``identities`` are pure; ``login`` gives challenges and opens sessions; ``standing`` finds and ends them.
"""

from custody.sessions.identities import Identities, Identity, NoIdentities, SignedIdentities, of_chains, of_genesis
from custody.sessions.login import (
    LoginChallenge,
    LoginClaim,
    LoginRefused,
    OpenedSession,
    log_in,
    open_challenge,
    purge_challenges,
)
from custody.sessions.standing import Session, allow, bar, end_session, end_sessions_of, find_session
from custody.sessions.texts import login_text

__all__ = [
    "Identities",
    "Identity",
    "LoginChallenge",
    "LoginClaim",
    "LoginRefused",
    "NoIdentities",
    "OpenedSession",
    "Session",
    "SignedIdentities",
    "allow",
    "bar",
    "end_session",
    "end_sessions_of",
    "find_session",
    "log_in",
    "login_text",
    "of_chains",
    "of_genesis",
    "open_challenge",
    "purge_challenges",
]
