"""Export, sign without a network, submit: the same checks, on two machines (R23)."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from custody.chain import ChainConnection
from custody.settings.chains import Chains
from custody.trezor import DeviceRejected, Signature
from custody.trezor.transaction import recover_signer
from workers.signer.bundle import Answer, Bundle, answer_path, bundle_seals, read_file, write_file
from workers.signer.checks import InstructionRefused, require_device_path
from workers.signer.client import SignerClient
from workers.signer.desk import Confirm, Event, Progress, SigningDeskSettings
from workers.signer.judgement import Judge, Judged
from workers.signer.safe_checks import Checked, CheckedSafe, check
from workers.signer.safe_desk import sign_on_owners_device
from workers.signer.session import sign_on_device
from workers.signer.trust import Trust


def export(
    client: SignerClient,
    chains: Chains,
    trust: Trust | None,
    instruction_id: str,
    path: Path,
    *,
    fee_cap_wei: int,
    verify_rpc: Sequence[str],
    since_seal: int | None,
    by: str,
) -> Judged:
    """Write a bundle of a handed-out instruction, once this machine's own nodes have confirmed its evidence.

    ``since_seal``: the number of the last seal that the other machine has seen. Raises InstructionRefused,
    SignerApiError.
    """
    claimed = client.instruction(instruction_id)
    if not claimed.waits_for_signature:
        raise InstructionRefused(f"Instruction {claimed.id} is {claimed.state}; only a handed-out one can be signed.")
    checked = check(claimed, chains, fee_cap_wei=fee_cap_wei)
    judged = Judge(trust, None, verify_rpc).judge(checked, client.seals_after)
    pinned = None if trust is None else trust.chain(checked.chain.id)
    urls = [*verify_rpc] or ([] if pinned is None else [*pinned.verify_rpc])
    seals = [*client.seals_from(since_seal)]
    write_file(
        path,
        Bundle(
            exported_at=datetime.now(UTC).isoformat(timespec="seconds"),
            exported_by=by,
            confirmed_by=tuple(ChainConnection(checked.chain.id, url).masked_url for url in urls),
            instruction=claimed,
            seals=bundle_seals(seals),
        ),
    )
    return judged


def sign_bundle(
    chains: Chains, desk: SigningDeskSettings, path: Path, *, progress: Progress, confirm: Confirm
) -> Path | None:
    """Sign a bundle on this machine, without any network; the answer's file, None when the person said no here.

    Raises InstructionRefused and DeviceError; a rejection on the device is written as the answer before it is raised.
    """
    bundle = read_file(path, Bundle)
    target = answer_path(path)
    if target.exists():
        raise InstructionRefused(f"{target} exists already: take it to the machine with the network, or move it away.")
    checked = check(bundle.instruction, chains, fee_cap_wei=desk.fee_cap_wei)
    require_device_path(checked.chain, desk.device_path)
    judged = Judge(desk.trust, desk.journal, offline=True).judge(checked, bundle.seals_after)
    progress(
        Event(
            "waiting",
            f"The chain's facts were confirmed by {', '.join(bundle.confirmed_by) or 'nobody'} for {bundle.exported_by} at "
            f"{bundle.exported_at}; this machine has no network and checked all the rest.",
            checked.claimed.id,
        )
    )
    signature = _sign(desk, judged, target, progress=progress, confirm=confirm)
    if signature is None:
        return None
    write_file(target, _answer(checked, signature))
    return target


def submit_answer(client: SignerClient, chains: Chains, path: Path, *, fee_cap_wei: int) -> str:
    """Hand in the answer to a bundle; what was done, as a sentence.

    The bytes are the API's of now: the answer must fit them, and the signer must be the treasury. Raises
    InstructionRefused, SignerApiError.
    """
    answer = read_file(answer_path(path), Answer)
    signature = answer.signature
    if signature is None:
        client.submit_rejection(answer.instruction, answer.rejected or "rejected")
        return f"Instruction {answer.instruction} stays open: {answer.rejected}"
    claimed = client.instruction(answer.instruction)
    checked = check(claimed, chains, fee_cap_wei=fee_cap_wei)
    if claimed.signing_hash != answer.signing_hash:
        raise InstructionRefused(f"Instruction {claimed.id} has other bytes now than were signed; export it again.")
    try:
        signer = recover_signer(checked.digest, signature)
    except ValueError as error:
        raise InstructionRefused(f"The answer's signature is malformed: {error}.") from None
    if isinstance(checked, CheckedSafe):
        if signer not in checked.owners.owners:
            raise InstructionRefused(f"The answer is signed by {signer}, who is no owner of {checked.chain.treasury}.")
    elif signer != checked.chain.treasury:
        raise InstructionRefused(f"The answer is signed by {signer}, the treasury is {checked.chain.treasury}.")
    client.submit_signature(claimed.id, signature)
    return f"Instruction {claimed.id} was signed and handed in."


def _sign(
    desk: SigningDeskSettings, judged: Judged, target: Path, *, progress: Progress, confirm: Confirm
) -> Signature | None:
    checked = judged.checked

    def on_rejection(error: DeviceRejected) -> None:
        _write_rejection(target, checked, error)

    if isinstance(checked, CheckedSafe):
        given = sign_on_owners_device(desk, judged, progress=progress, confirm=confirm, on_rejection=on_rejection)
        return None if given is None else given.signature
    kept = None if desk.journal is None else desk.journal.signature_of("0x" + checked.digest.hex())
    if kept is not None:
        progress(Event("resumed", "The device signed it before; that signature is written again.", checked.claimed.id))
        return kept
    return sign_on_device(desk, judged, progress=progress, confirm=confirm, on_rejection=on_rejection)


def _answer(checked: Checked, signature: Signature) -> Answer:
    return Answer(
        instruction=checked.claimed.id,
        signing_hash="0x" + checked.digest.hex(),
        y_parity=signature.y_parity,
        r=f"0x{signature.r:064x}",
        s=f"0x{signature.s:064x}",
    )


def _write_rejection(target: Path, checked: Checked, error: DeviceRejected) -> None:
    said = f"{error.reason}: {error.what}"[:500]
    signing_hash = "0x" + checked.digest.hex()
    write_file(target, Answer(instruction=checked.claimed.id, signing_hash=signing_hash, rejected=said))
