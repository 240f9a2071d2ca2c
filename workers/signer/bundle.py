"""Files that carry an instruction to a machine without a network, and the signature back (R23).

The machine with a network asks its own nodes before it writes a bundle; the machine without one checks everything else
again: trust file, bytes, derivation, the recipient's signatures, seals, what was promised, and the nonce. So the chain's
facts in a bundle are the exporting machine's word, and the bundle says whose.
"""

import json
import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from custody.ledger.seals import Seal, seal_as_json, seal_from_json
from custody.trezor.transaction import Signature, SignatureError
from workers.signer.checks import InstructionRefused
from workers.signer.client import ApiInstruction

FILE_MAXIMUM_BYTES: Final = 67_108_864  # some hundred thousand seals; an instruction with all evidence is 200 KiB

_Hex32 = Annotated[str, Field(pattern=r"^0x[0-9a-f]{64}$")]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Bundle(_File):
    """An instruction with its evidence. ``confirmed_by``: the nodes that the exporting machine asked, masked."""

    format: Literal["amanat-signer-bundle-1"] = "amanat-signer-bundle-1"
    exported_at: str
    exported_by: str
    confirmed_by: tuple[str, ...]
    instruction: ApiInstruction
    seals: tuple[dict[str, Any], ...]

    def seals_after(self, last_seen: Seal | None) -> list[Seal]:
        """As the API's: the last seen one again and all after it. Raises InstructionRefused when they do not reach back."""
        try:
            seals = [seal_from_json(each) for each in self.seals]
        except ValueError as error:
            raise InstructionRefused(f"The bundle is malformed: {error}.") from None
        if last_seen is None:
            return seals[-1:]
        found = [each for each in seals if each.seal_no >= last_seen.seal_no]
        if seals and seals[0].seal_no > last_seen.seal_no:
            raise InstructionRefused(
                f"The bundle's seals begin at {seals[0].seal_no} and this machine has seen {last_seen.seal_no}: export it "
                f"again with --since-seal {last_seen.seal_no}."
            )
        return found


class Answer(_File):
    """What the machine without a network says: three numbers over the signing hash, or the person's no."""

    format: Literal["amanat-signer-answer-1"] = "amanat-signer-answer-1"
    instruction: str
    signing_hash: _Hex32
    y_parity: Annotated[int, Field(ge=0, le=1)] | None = None
    r: _Hex32 | None = None
    s: _Hex32 | None = None
    rejected: Annotated[str, Field(max_length=500)] | None = None

    @property
    def signature(self) -> Signature | None:
        """The signature, None for a rejection. Raises InstructionRefused when it is neither."""
        if self.y_parity is None or self.r is None or self.s is None:
            if self.rejected is None:
                raise InstructionRefused("The answer holds neither a signature nor a rejection; sign the bundle again.")
            return None
        try:
            return Signature(self.y_parity, int(self.r, 16), int(self.s, 16))
        except SignatureError as error:
            raise InstructionRefused(f"The answer's signature is malformed: {error}.") from None


def answer_path(bundle: Path) -> Path:
    """Where the answer to a bundle lies: beside it."""
    return bundle.with_name(f"{bundle.name}.answer")


def bundle_seals(seals: list[Seal]) -> tuple[dict[str, Any], ...]:
    """Seals as a bundle holds them."""
    return tuple(seal_as_json(seal) for seal in seals)


_Model = TypeVar("_Model", bound=_File)


def read_file(path: Path, model: type[_Model]) -> _Model:
    """A bundle or an answer. Raises InstructionRefused naming what is wrong with it."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_MAXIMUM_BYTES + 1)
    except OSError as error:
        raise InstructionRefused(f"{path} cannot be read: {error.strerror}.") from None
    if len(content) > FILE_MAXIMUM_BYTES:
        raise InstructionRefused(f"{path} is over {FILE_MAXIMUM_BYTES} bytes.")
    try:
        return model.model_validate(json.loads(content))
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, each["loc"])) or "file" for each in error.errors(include_input=False)[:5])
        raise InstructionRefused(f"{path} is no {model.__name__.lower()} of fleet signer: {fields}.") from None
    except (ValueError, RecursionError):
        raise InstructionRefused(f"{path} is no JSON.") from None


def write_file(path: Path, content: _File) -> None:
    """Write a new file that only this user can read. Raises InstructionRefused for one that exists."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(content.model_dump_json(indent=1))
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise InstructionRefused(f"{path} exists already; move it away or name another.") from None
    except OSError as error:
        raise InstructionRefused(f"{path} cannot be written: {error.strerror}.") from None
