"""The signer API's client. Its answers are claims: workers.signer.checks compares them with local configuration."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Protocol, Self
from urllib.parse import urlsplit

import httpx
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from custody.ledger.seals import Seal, seal_from_json
from custody.trezor.transaction import Signature
from workers.signer.pinned_tls import PinDiffers, pinned_context

if TYPE_CHECKING:
    from custody.trezor import SigningDevice

TIMEOUT_SECONDS: Final = 10.0  # an answer is one short transaction
ATTEMPTS: Final = 4  # with waits of 0.2, 0.4, 0.8 s
SUBMIT_ATTEMPTS: Final = 12  # about 20 s: a restart of the API must not cost a person's presses
ANSWER_LIMIT_BYTES: Final = 4 * 1024 * 1024  # a list of 100 instructions is under 200 KiB
PAYMENTS_MAXIMUM: Final = 50  # of one group; the fleet makes no larger ones
SEALS_PAGE: Final = 500  # seals in one answer; the API sends as many
UNAUTHORISED: Final = 401
HOLD_SECONDS_MAXIMUM: Final = 600.0  # the shortest sessions last 900: nobody logs in for each single instruction
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})

ApprovalSubject = Literal["instructions", "address-book", "actions"]
_Digits = Annotated[str, Field(pattern=r"^[0-9]{1,78}$")]
_Amount = Annotated[str, Field(pattern=r"^[0-9]{1,78}(\.[0-9]{1,18})?$")]
_Uuid = Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
_HexBytes = Annotated[str, Field(pattern=r"^0x([0-9a-f]{2})*$", max_length=8_192)]


class SignerApiError(Exception):
    """The API did not do what was asked. The message is a sentence that says what to do."""

    def __init__(self, sentence: str, status: int | None = None) -> None:
        super().__init__(sentence)
        self.status = status


class SignerApiAway(SignerApiError):
    """No answer, or one that says to come back. Whatever was asked may be asked again."""


class LastSubmission(BaseModel):
    """What was last handed in for an instruction, and what the fleet said of it."""

    kind: Literal["signature", "rejection"]
    state: Literal["received", "accepted", "refused"]
    reason: str | None


class ApiApproval(BaseModel):
    """What an instruction's approvers are asked to agree to, and who did. The fee ceiling in wei."""

    model_config = ConfigDict(frozen=True)

    environment: Annotated[str, Field(pattern=r"^[a-z0-9]{4}$")]
    policy_version: Annotated[int, Field(ge=1)]
    policy_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    fee_ceiling_wei: _Digits
    expires_at: AwareDatetime
    intent_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    approved_by: list[str]


class ApiEntrySignature(BaseModel):
    """Whose signature of an address book entry the API claims to have."""

    person: str
    approver: str
    signature: Annotated[str, Field(pattern=r"^0x[0-9a-f]{130}$")]


class ApiEntry(BaseModel):
    """An address book entry as the API claims it."""

    model_config = ConfigDict(frozen=True)

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
    environment: str
    number: int
    previous: str
    action: str
    role: str
    chain_id: int
    address: str
    owner: str
    label: str
    added_at: AwareDatetime
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    signatures: list[ApiEntrySignature]


class ApiAction(BaseModel):
    """An operator's action as the API claims it. ``parameters`` is the very text that its hash covers."""

    model_config = ConfigDict(frozen=True)

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
    kind: str
    chain_id: int
    parameters: Annotated[str, Field(max_length=65_536)]
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    reason: str
    proposed_by: str
    proposed_at: AwareDatetime
    signed_by: list[str]


class Leased(BaseModel):
    """Who is signing it, until when (ISO 8601)."""

    signer: str
    until: str
    owner: str | None = None
    """Of a Safe's owners the one who signs."""


class ApiPart(BaseModel):
    """One payment of a group (R23): its share in whole tokens and smallest units, and the epoch of its book (R12)."""

    model_config = ConfigDict(frozen=True)

    payment_id: _Uuid
    instruction_id: _Uuid
    amount: _Amount
    amount_units: _Digits
    release_epoch: Annotated[int, Field(ge=0)]


class ApiInstruction(BaseModel):
    """An instruction as the API claims it. Amounts in smallest units as decimal digits, fees in wei."""

    model_config = ConfigDict(frozen=True)

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
    payment_id: str | None
    """None: a group, which pays for all of ``payments`` by one transfer (R23), or a drain of the house's own coins."""
    house_id: _Uuid | None = None
    """The house book whose coins a drain moves (R22)."""
    payments: Annotated[tuple[ApiPart, ...], Field(max_length=PAYMENTS_MAXIMUM)] = ()
    group_id: str | None = None
    purpose: Literal["release", "refund", "drain", "platform_fee", "provider_fee"]
    state: str
    chain_id: int
    treasury: str
    token: str
    symbol: str
    decimals: Annotated[int, Field(ge=0, le=18)]
    recipient: str
    label: str | None
    amount: _Amount
    amount_units: _Digits
    nonce: int | None
    signs: Literal["payout", "cancel"] = "payout"
    """What its bytes are: the payout (also with higher fees), or the cancel on the same nonce (R1)."""
    waits_for_signature: bool = False
    unsigned_kind: Literal["transaction", "safe_transaction"] = "transaction"
    """What the bytes are: a transaction of the treasury's account, or a SafeTx for a Safe's owners (R16)."""
    unsigned_bytes: _HexBytes | None
    signed_by: tuple[str, ...] = ()
    """Owners of the Safe whose signatures count already."""
    signing_hash: _HexBytes | None
    max_total_fee_wei: _Digits | None
    release_epoch: int = 0
    raw_units: bool = False
    """The device shows smallest units; one more person must have agreed (R2)."""
    held_reason: str | None
    rejected_reason: str | None
    created_at: str
    handed_out_at: str | None
    last_submission: LastSubmission | None
    approval: ApiApproval | None = None
    lease: Leased | None = None
    """The newest; of a Safe's owners each may have one."""
    leases: tuple[Leased, ...] = ()
    of_another_device: bool = False
    """Another treasury's device signs it: while one is drained, a chain has two (R22)."""
    evidence: dict[str, list[dict[str, Any]]] | None = None

    @property
    def shares(self) -> dict[str, int]:
        """Smallest units by payment: a group's, or its one payment's own; of the house's own coins by their book."""
        if self.payment_id is not None:
            return {self.payment_id: int(self.amount_units)}
        if self.house_id is not None:
            return {self.house_id: int(self.amount_units)}
        return {each.payment_id: int(each.amount_units) for each in self.payments}

    @property
    def waits_for_signer(self) -> bool:
        """Handed out, outbid or to be cancelled, and neither answered nor refused by a person."""
        if not self.waits_for_signature or self.of_another_device or self.rejected_reason is not None:
            return False
        return self.last_submission is None or self.last_submission.state != "received"


class Access(Protocol):
    """This machine's sessions (``workers.signer.logging_in``)."""

    def token(self, client: "SignerClient", /) -> str:
        """The token of an open session; a person may be asked on the device for it."""
        ...

    def forget(self) -> None:
        """The API does not know that session any more."""
        ...

    def hold(
        self, client: "SignerClient", /, *, seconds: float, address: str | None, device: "SigningDevice | None"
    ) -> None:
        """Have a session that lasts ``seconds``, of ``address`` where one is named."""
        ...


class SignerClient:
    """Talks to the signer API. Every method raises SignerApiError with a sentence.

    ``access`` gives the session of whoever asks (R6); without one only what needs none is answered. Plain HTTP is for
    this machine only: anywhere else the session would travel in the open. With ``certificate_sha256`` (https) exactly
    the server with that key is talked to (R4).
    """

    def __init__(self, url: str, access: Access | None = None, *, certificate_sha256: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise SignerApiError(f"SIGNER_API_URL is {url!r}: expected http:// or https:// with a host.")
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise SignerApiError(f"SIGNER_API_URL is {url!r}: use https:// for a host other than this machine.")
        self.access = access
        pinned = None if certificate_sha256 is None else pinned_context(certificate_sha256)
        self._http = httpx.Client(
            base_url=url,
            verify=True if pinned is None else pinned,
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
            follow_redirects=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def instructions(self) -> list[ApiInstruction]:
        """Every open instruction, handed out ones first."""
        answer = self._call("GET", "/v1/instructions")
        found = answer.get("instructions")
        if not isinstance(found, list):
            raise SignerApiError("The API's answer has no list of instructions; is SIGNER_API_URL right?")
        return [self._read(item) for item in found]

    def instruction(self, instruction_id: str) -> ApiInstruction:
        """One instruction with its evidence."""
        return self._read(self._call("GET", f"/v1/instructions/{instruction_id}"))

    def seals_after(self, last_seen: Seal | None) -> Iterator[Seal]:
        """The last seen seal again and all after it; without one, the newest alone."""
        return self.seals_from(None if last_seen is None else last_seen.seal_no)

    def seals_from(self, number: int | None) -> Iterator[Seal]:
        """The ledger's seals from a number on, page by page; the newest alone without one."""
        while True:
            query = "" if number is None else f"?from={number}"
            found = self._call("GET", f"/v1/seals{query}").get("seals")
            if not isinstance(found, list):
                raise SignerApiError("The API's answer has no list of seals; is SIGNER_API_URL right?")
            try:
                page = [seal_from_json(each) for each in found]
            except ValueError as error:
                raise SignerApiError(f"The API's seals are malformed ({error}); do not sign.") from None
            yield from page
            if number is None or len(page) < SEALS_PAGE:
                return
            number = page[-1].seal_no + 1

    def submit_signature(self, instruction_id: str, signature: Signature) -> None:
        """Hand in a signature: three numbers and nothing else. Handing it in twice is harmless."""
        self._call(
            "POST",
            f"/v1/instructions/{instruction_id}/signature",
            {"y_parity": signature.y_parity, "r": f"0x{signature.r:064x}", "s": f"0x{signature.s:064x}"},
        )

    def unsigned_entries(self, fewer_than: int) -> list[ApiEntry]:
        """Address book entries that fewer than ``fewer_than`` persons signed, the oldest first."""
        answer = self._call("GET", f"/v1/address-book/unsigned?fewer_than={fewer_than}")
        try:
            return [ApiEntry.model_validate(item) for item in answer.get("entries", ())]
        except (ValidationError, TypeError):
            raise SignerApiError("The API's address book is malformed; do not sign it.") from None

    def actions(self) -> list[ApiAction]:
        """Operators' actions that wait for signatures, the oldest first."""
        answer = self._call("GET", "/v1/actions")
        try:
            return [ApiAction.model_validate(item) for item in answer.get("actions", ())]
        except (ValidationError, TypeError):
            raise SignerApiError("The API's actions are malformed; do not sign them.") from None

    def submit_approval(self, subject: ApprovalSubject, subject_id: str, body: dict[str, str]) -> None:
        """Hand in a person's approval: ``person``, ``approver``, ``digest`` and ``signature``. Twice is harmless."""
        self._call("POST", f"/v1/{subject}/{subject_id}/approval", body)

    def take_lease(self, instruction_id: str, signer: str, seconds: int, *, owner: str | None = None) -> None:
        """Say who is signing it, for so many seconds at most; 0 gives it back. Refused while another one is.

        ``owner``: for which of a Safe's owners; each has a lease of its own.
        """
        body: dict[str, Any] = {"signer": signer, "seconds": seconds}
        if owner is not None:
            body["owner"] = owner
        self._call("POST", f"/v1/instructions/{instruction_id}/lease", body, attempts=ATTEMPTS)

    def submit_rejection(self, instruction_id: str, reason: str) -> None:
        """Say that the signer did not sign, and why (at most 500 characters)."""
        self._call("POST", f"/v1/instructions/{instruction_id}/rejection", {"reason": reason[:500]})

    def get(self, path: str) -> dict[str, Any]:
        """One answer of the API, as it is."""
        return self._call("GET", path)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Hand something in whose repetition is harmless."""
        return self._call("POST", path, body)

    def hold_session(
        self, seconds: float, *, address: str | None = None, device: "SigningDevice | None" = None
    ) -> None:
        """Be logged in, as ``address`` where one is named, for as long as a person may take at the device.

        ``device`` is the one that is open now: nobody else can open it for a login meanwhile.
        """
        if self.access is not None:
            self.access.hold(self, seconds=min(seconds, HOLD_SECONDS_MAXIMUM), address=address, device=device)

    def post_once(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """Send what is good once, and what needs no session: never again by itself."""
        return self._once("POST", path, body, token=None)

    def delete(self, path: str) -> dict[str, Any]:
        """End something, which may have ended already."""
        return self._call("DELETE", path, attempts=ATTEMPTS)

    def _read(self, value: object) -> ApiInstruction:
        try:
            return ApiInstruction.model_validate(value)
        except ValidationError as error:
            fields = ", ".join(".".join(map(str, item["loc"])) for item in error.errors(include_input=False))
            raise SignerApiError(f"The API's instruction is malformed ({fields}); do not sign it.") from None

    def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, attempts: int | None = None
    ) -> dict[str, Any]:
        usual = ATTEMPTS if method == "GET" else SUBMIT_ATTEMPTS
        retrying = Retrying(
            retry=retry_if_exception_type(SignerApiAway),
            stop=stop_after_attempt(attempts or usual),
            wait=wait_exponential(multiplier=0.2, max=2),
            reraise=True,
        )
        return retrying(self._as_someone, method, path, body)

    def _as_someone(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        if self.access is None:
            return self._once(method, path, body, token=None)
        try:
            return self._once(method, path, body, token=self.access.token(self))
        except SignerApiError as error:
            if error.status != UNAUTHORISED:
                raise
        self.access.forget()
        return self._once(method, path, body, token=self.access.token(self))

    def _once(self, method: str, path: str, body: dict[str, Any] | None, *, token: str | None) -> dict[str, Any]:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        try:
            with self._http.stream(method, path, json=body, headers=headers) as response:
                raw = bytearray()
                for chunk in response.iter_bytes():
                    raw += chunk
                    if len(raw) > ANSWER_LIMIT_BYTES:
                        raise SignerApiError("The API's answer is too long; is SIGNER_API_URL right?")
                status = response.status_code
        except httpx.HTTPError as error:
            if (differs := _pin_difference(error)) is not None:
                raise SignerApiError(
                    f"{self._http.base_url} is not the signer API that trust.toml pins: {differs}. Nothing was sent to "
                    "it; tell the custody team."
                ) from None
            raise SignerApiAway(
                f"The signer API at {self._http.base_url} does not answer ({type(error).__name__}); check "
                "SIGNER_API_URL and that the fleet runs."
            ) from error
        try:
            answer: Any = json.loads(bytes(raw))
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise SignerApiError(f"The API answered {status} and no JSON; is SIGNER_API_URL right?", status)
        if status >= 400:
            kind = SignerApiAway if status in {429, 503} else SignerApiError
            raise kind(f"The signer API refused: {answer.get('error', status)}", status)
        return answer


def _pin_difference(error: BaseException | None) -> PinDiffers | None:
    while error is not None:
        if isinstance(error, PinDiffers):
            return error
        error = error.__cause__ or error.__context__
    return None
