"""R4, R16, R19: what a Safe's owner is shown and what comes back, with every field and byte changed; nothing else is taken."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

import pytest
from eth_abi.abi import encode
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_keys.constants import SECPK1_N

from custody.safe import OwnerSignature, SafeTransaction
from custody.trezor import Signature, encode_erc20_transfer
from custody.trezor.transaction import SignatureError
from tests.conftest import Database
from tests.counts import Counts, declared, sampled
from tests.safe_signer_scene import SafeSignerScene, safe_signer_scenes
from tests.safe_world import OTHER, sign_hash
from tests.signer_api_server import client_at, post, serving
from tests.token_chain import TokenChain
from workers.demo.development_chain import ETHER
from workers.demo.safe_contracts import SafeContracts
from workers.embedded.services import Services
from workers.signer import ApiInstruction, InstructionRefused, Journal, SignerClient, Trust, load_trust
from workers.signer.bundle import Answer, Bundle, answer_path, bundle_seals, write_file
from workers.signer.checks import InstructionEarly
from workers.signer.judgement import Judge
from workers.signer.offline import submit_answer
from workers.signer.safe_checks import check

FEE_CAP_WEI = 10**16
TYPES = (
    "uint256", "address", "address", "uint256", "bytes", "uint8", "uint256", "uint256", "uint256", "address", "address",
    "uint256",
)  # fmt: skip
ZERO = "0x" + "0" * 40


@dataclass
class Desk:
    """One owner's machine, and the one honest instruction that everything is a change of."""

    scene: SafeSignerScene
    client: SignerClient
    url: str
    trust: Trust
    journal: Journal
    honest: ApiInstruction
    payment: UUID

    def judge(self, claimed: ApiInstruction) -> None:
        """All that stands before the device. Raises InstructionRefused."""
        checked = check(claimed, self.scene.step.chains, fee_cap_wei=FEE_CAP_WEI)
        Judge(self.trust, self.journal).judge(checked, self.client.seals_after)

    def why_refused(self, **changed: object) -> str:
        """Why the honest instruction with these changes is refused; empty when it is not."""
        try:
            self.judge(self.honest.model_copy(update=changed))
        except InstructionRefused as error:
            return str(error)
        return ""


@pytest.fixture(name="desk", params=sampled([False, True]), ids=sampled(["token", "native"]))
def _desk(
    request: pytest.FixtureRequest,
    token_chain: TokenChain,
    database: Database,
    services: Services,
    mongo_database: str,
    tmp_path: Path,
    contracts: SafeContracts,
) -> Iterator[Desk]:
    for scene in safe_signer_scenes(
        token_chain, database, services.mongo_url, mongo_database, tmp_path, contracts, native=request.param
    ):
        payment = scene.handed_out_payment()
        trust = load_trust(scene.write_trust())
        with (
            serving(scene.database) as url,
            client_at(url) as client,
            Journal(tmp_path / "journal.jsonl", create=True) as journal,
        ):
            honest = client.instruction(str(scene.instruction(payment).id))
            yield Desk(scene, client, url, trust, journal, honest, payment)


def _words(desk: Desk) -> dict[str, object]:
    found = desk.scene.transaction(desk.payment)
    return {
        "chain": found.chain_id, "safe": found.safe, "to": found.to, "value": found.value, "data": found.data,
        "operation": 0, "safe_tx_gas": 0, "base_gas": 0, "gas_price": 0, "gas_token": ZERO, "refund_receiver": ZERO,
        "nonce": found.nonce,
    }  # fmt: skip


def _changes(desk: Desk) -> list[tuple[str, dict[str, object]]]:
    """Each field of the SafeTx in other values, those among them that give a Safe away."""
    multi_send = bytes.fromhex("8d80ff0a") + encode(["bytes"], [b"\0" * 85])
    approve = bytes.fromhex("095ea7b3") + encode(["address", "uint256"], [OTHER, 2**256 - 1])
    found = desk.scene.transaction(desk.payment)
    return [
        ("chain", {"chain": 1}), ("safe", {"safe": OTHER}), ("to", {"to": OTHER}),
        ("a call of the Safe itself", {"to": found.safe, "data": bytes.fromhex("694e80c3") + bytes(31) + b"\1", "value": 0}),
        ("value", {"value": found.value + 1}), ("no value", {"value": 0, "data": b""}),
        ("amount", {"data": encode_erc20_transfer(OTHER, 1)}), ("longer data", {"data": found.data + b"\0"}),
        ("multi send", {"data": multi_send, "value": 0}), ("an allowance", {"data": approve, "value": 0}),
        ("a delegate call", {"operation": 1}), ("operation", {"operation": 2}), ("gas of the call", {"safe_tx_gas": 1}),
        ("base gas", {"base_gas": 1}), ("gas price", {"gas_price": 1}), ("gas token", {"gas_token": desk.scene.chain.token}),
        ("refund receiver", {"refund_receiver": OTHER}), ("nonce", {"nonce": found.nonce + 1}),
    ]  # fmt: skip


def test_every_field_and_byte_of_a_safetx_that_differs_is_refused(desk: Desk, counts: Counts) -> None:
    desk.judge(desk.honest)
    words, tried = _words(desk), 0
    for name, change in _changes(desk):
        raw = encode(TYPES, list((words | change).values()))
        assert raw != bytes.fromhex(str(desk.honest.unsigned_bytes)[2:])
        assert desk.why_refused(unsigned_bytes="0x" + raw.hex()), name
        tried += 1
        # And with a hash, a nonce and a chain that fit, as whoever rules the database would show them.
        try:
            made = SafeTransaction.from_stored_bytes(raw)
        except ValueError:
            continue
        fitting = {"nonce": made.nonce, "signing_hash": "0x" + made.hash().hex(), "chain_id": made.chain_id}
        assert desk.why_refused(unsigned_bytes="0x" + raw.hex(), **fitting), name
        tried += 1
    honest = bytes.fromhex(str(desk.honest.unsigned_bytes)[2:])
    for place in range(0, len(honest), declared(1, 7)):
        for bit in range(0, 8, declared(1, 3)):
            raw = bytearray(honest)
            raw[place] ^= 1 << bit
            assert desk.why_refused(unsigned_bytes="0x" + bytes(raw).hex()), (place, bit)
            tried += 1
    counts("changed SafeTx, each refused", tried)


def test_coins_that_were_promised_once_are_free_when_their_nonce_was_spent_on_nothing(desk: Desk) -> None:
    """R1: an owner's signature lives until its nonce is spent by something else; this machine sees that by itself."""
    _asked(desk)
    later = _on_nonce(desk, 1)
    with pytest.raises(InstructionEarly, match="it spends nonce 1 of the Safe, whose next one is 0"):
        desk.judge(desk.honest.model_copy(update=later))
    desk.scene.safe.run(desk.scene.safe.address)  # its rejection
    desk.judge(desk.honest.model_copy(update=later))
    with pytest.raises(InstructionRefused, match="whose next one is 1") as spent:
        desk.judge(desk.honest)
    assert not isinstance(spent.value, InstructionEarly)  # it comes never more


def test_coins_that_were_paid_are_not_promised_again(desk: Desk) -> None:
    _asked(desk)
    desk.scene.execute_elsewhere(desk.payment, desk.scene.chain.development.new_account(ETHER))
    assert "would be paid out of" in desk.why_refused(**_on_nonce(desk, 1))


def _asked(desk: Desk) -> None:
    """The honest payout is in this machine's journal from here on."""
    checked = check(desk.honest, desk.scene.step.chains, fee_cap_wei=FEE_CAP_WEI)
    judged = Judge(desk.trust, desk.journal).judge(checked, desk.client.seals_after)
    desk.journal.record_asked(checked, judged.promise, owner=desk.scene.owners[0].address, safe=judged.safe)
    desk.judge(desk.honest)


def _on_nonce(desk: Desk, nonce: int) -> dict[str, object]:
    """The same payout as another instruction on another nonce of the Safe."""
    made = replace(desk.scene.transaction(desk.payment), nonce=nonce)
    return {
        "id": str(UUID(int=7)), "nonce": nonce, "unsigned_bytes": "0x" + made.stored_bytes().hex(),
        "signing_hash": "0x" + made.hash().hex(),
    }  # fmt: skip


def _forgeries(desk: Desk) -> dict[str, tuple[int, int, int]]:
    """(y_parity, r, s) of signatures that are not this owner's over this SafeTx."""
    scene = desk.scene
    payout, owner = scene.transaction(desk.payment), scene.owners[0]
    honest = sign_hash(owner, payout.hash())

    def over(transaction: SafeTransaction) -> tuple[int, int, int]:
        made = sign_hash(owner, transaction.hash())
        return made.y_parity, made.r, made.s

    text = owner.sign_message(encode_defunct(payout.hash()))
    stranger = sign_hash(Account.create(), payout.hash())
    data = encode_erc20_transfer(OTHER, 5)
    return {
        "a high s": (1 - honest.y_parity, honest.r, SECPK1_N - honest.s),
        "the other parity": (1 - honest.y_parity, honest.r, honest.s),
        "r and s swapped": (honest.y_parity, honest.s, honest.r),
        "r + 1": (honest.y_parity, honest.r + 1, honest.s),
        "s + 1": (honest.y_parity, honest.r, honest.s + 1),
        "no r": (honest.y_parity, 0, honest.s),
        "no s": (honest.y_parity, honest.r, 0),
        "a stranger's": (stranger.y_parity, stranger.r, stranger.s),
        "an eth_sign text": (text.v - 27, text.r, text.s),
        "of another Safe": over(SafeTransaction(31337, OTHER, scene.chain.token, 0, data, payout.nonce)),
        "of another chain": over(replace(payout, chain_id=1)),
        "of the next nonce": over(replace(payout, nonce=payout.nonce + 1)),
        "of the rejection": over(payout.rejection()),
        "of another payout": over(SafeTransaction(31337, payout.safe, scene.chain.token, 0, data, payout.nonce)),
    }


def test_no_other_signature_is_taken_by_the_desk_the_api_or_the_fleet(desk: Desk, counts: Counts) -> None:
    scene, tried, refused = desk.scene, 0, 0
    bundle = scene.folder / "bundle.json"
    write_file(
        bundle,
        Bundle(exported_at="now", exported_by="test", confirmed_by=(), instruction=desk.honest, seals=bundle_seals([])),
    )
    for name, (y_parity, r, s) in _forgeries(desk).items():
        # At the desk that carries an answer from a machine without network.
        answer = Answer(
            instruction=desk.honest.id, signing_hash=str(desk.honest.signing_hash), y_parity=y_parity,
            r=f"0x{r:064x}", s=f"0x{s:064x}",
        )  # fmt: skip
        answer_path(bundle).unlink(missing_ok=True)
        write_file(answer_path(bundle), answer)
        tried += 1
        with pytest.raises(InstructionRefused):
            submit_answer(desk.client, scene.step.chains, bundle, fee_cap_wei=FEE_CAP_WEI)
        refused += 1
        # And by the releases worker, where the same comes in without that desk.
        try:
            Signature(y_parity, r, s)
        except SignatureError:
            continue
        tried += 1
        path = f"/v1/instructions/{desk.honest.id}/signature"
        assert post(desk.url, path, {"y_parity": y_parity, "r": f"0x{r:064x}", "s": f"0x{s:064x}"}).status_code == 202
        scene.run()
        state, why = scene.submissions(desk.payment)[-1]
        assert state == "refused", name
        assert why is not None
        refused += 1
    for v in (2, 27, 28, 31, 32, -1):
        tried += 1
        body = {"y_parity": v, "r": "0x" + "01" * 32, "s": "0x" + "01" * 32}
        assert post(desk.url, f"/v1/instructions/{desk.honest.id}/signature", body).status_code == 422
        refused += 1
    assert scene.instruction(desk.payment).state == "handed_out"
    scene.submit(desk.payment, scene.owner_signs(desk.payment, scene.owners[0]))
    scene.run()
    replayed = sign_hash(scene.owners[0], scene.transaction(desk.payment).hash())
    assert desk.client.instruction(desk.honest.id).signed_by == (scene.owners[0].address,)
    assert OwnerSignature(scene.owners[0].address, replayed).packed()[-1] in (27, 28)
    desk.client.submit_signature(desk.honest.id, replayed)  # replayed: it is the one that stands already
    scene.run()
    assert scene.instruction(desk.payment).state == "handed_out"
    counts("signatures tried", tried)
    counts("signatures refused", refused)
    assert tried == refused
