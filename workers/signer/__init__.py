"""The signer's side: an API client, local checks, and a device. It never reaches a database (design §7)."""

from workers.signer.checks import CheckedInstruction, InstructionRefused, check_instruction
from workers.signer.client import ApiInstruction, SignerApiAway, SignerApiError, SignerClient
from workers.signer.desk import Event, SigningDeskSettings
from workers.signer.journal import Journal
from workers.signer.queue import SigningOutcome, sign_open_instructions
from workers.signer.session import sign_instruction
from workers.signer.trust import Trust, load_trust

__all__ = [
    "ApiInstruction",
    "CheckedInstruction",
    "Event",
    "InstructionRefused",
    "Journal",
    "SignerApiAway",
    "SignerApiError",
    "SignerClient",
    "SigningDeskSettings",
    "SigningOutcome",
    "Trust",
    "check_instruction",
    "load_trust",
    "sign_instruction",
    "sign_open_instructions",
]
