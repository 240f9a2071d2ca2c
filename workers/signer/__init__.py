"""The signer's side: an API client, local checks, and a device. It never reaches a database (design §7)."""

from workers.signer.checks import CheckedInstruction, InstructionRefused, check_instruction
from workers.signer.client import ApiInstruction, SignerApiAway, SignerApiError, SignerClient
from workers.signer.session import (
    Event,
    SigningDeskSettings,
    SigningOutcome,
    sign_instruction,
    sign_open_instructions,
)

__all__ = [
    "ApiInstruction",
    "CheckedInstruction",
    "Event",
    "InstructionRefused",
    "SignerApiAway",
    "SignerApiError",
    "SignerClient",
    "SigningDeskSettings",
    "SigningOutcome",
    "check_instruction",
    "sign_instruction",
    "sign_open_instructions",
]
