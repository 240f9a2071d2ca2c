"""Evidence of the chain's own coin: value transfers without a log, from a buyer to a derived address and to the treasury."""

from decimal import Decimal
from typing import Any, ClassVar, cast
from uuid import UUID

from eth_typing import ChecksumAddress
from eth_utils.address import to_checksum_address

from custody.chain import erc20
from custody.chain.addresses import ZERO_ADDRESS
from custody.chain.logs import TransferLog
from custody.chain.native import TOP_LEVEL
from custody.settings.chains import NATIVE
from tests.marketplace import Marketplace
from tests.signer_scene import SignerScene
from workers.demo.development_chain import ETHER
from workers.demo.wallet import Wallet


class NativeScene(SignerScene):
    """The signer's scene where buyers pay 3 coins. Put before a scene of another treasury it does the same there."""

    amount: ClassVar[Decimal] = Decimal(3)
    units: ClassVar[int] = 3 * ETHER
    decimals: ClassVar[int] = 18
    proxy: str | None = None
    """The contract that buyers pay through; None: by transactions of their own."""

    def make_market(self) -> Marketplace:
        return Marketplace(self.database, token=NATIVE, symbol="ETH", decimals=18)

    def give_gas(self, address: str, units: int) -> None:
        self.chain.development.set_balance(address, units + ETHER)

    def call(self, recipient: str, units: int) -> tuple[str, int, bytes]:
        return recipient, units, b""

    def paid_to(self, payment: UUID) -> int:
        return self.chain.deployer.client.balance(self.instruction(payment).recipient)

    def coins_in_books(self) -> Decimal:
        """What the books say of the treasury's coins: the house's and the buyers'."""
        row: Any = self.market.execute(
            "SELECT coalesce(sum(treasury + treasury_house), 0) AS coins FROM fleet.ledger_balances WHERE token = 'native'"
        )[0]
        return row.coins

    def _send(self, wallet: Wallet, to: str, units: int) -> TransferLog:
        log_index = TOP_LEVEL
        if self.proxy is not None and wallet is self.chain.deployer:
            call = erc20.encode_transfer_with_reference_and_fee(
                recipient=to, reference=b"\x01" * 8, fee_amount=0, fee_address=ZERO_ADDRESS
            )
            receipt = wallet.wait(wallet.send(self.proxy, call, value=units))
            log_index = receipt.logs[0].log_index
        else:
            receipt = wallet.wait(wallet.send(to, value=units))
        return TransferLog(
            receipt.chain_id, receipt.block_number, receipt.block_hash, receipt.transaction_hash,
            receipt.transaction_index, log_index, cast(ChecksumAddress, NATIVE), receipt.sender,
            to_checksum_address(to), units,
        )  # fmt: skip
