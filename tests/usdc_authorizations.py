"""EIP-3009 transfers of real USDC, signed by any account."""

from eth_abi.abi import encode
from eth_account.messages import encode_typed_data
from eth_account.signers.local import LocalAccount

from custody.chain import ChainClient
from custody.chain.erc20 import selector

_TYPES = [
    {"name": "from", "type": "address"},
    {"name": "to", "type": "address"},
    {"name": "value", "type": "uint256"},
    {"name": "validAfter", "type": "uint256"},
    {"name": "validBefore", "type": "uint256"},
    {"name": "nonce", "type": "bytes32"},
]
_CALL = selector("transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)")


def transfer_with_authorization_call(
    client: ChainClient, usdc: str, account: LocalAccount, recipient: str, units: int, nonce: bytes = b"\x07" * 32
) -> bytes:
    """``transferWithAuthorization`` of ``units`` (smallest unit), valid for ever, by the overload with v, r and s."""
    domain = {"name": "USD Coin", "version": "2", "chainId": client.chain.chain_id, "verifyingContract": usdc}
    values = (account.address, recipient, units, 0, 2**64, nonce)
    message = {kind["name"]: value for kind, value in zip(_TYPES, values, strict=True)}
    signed = account.sign_message(encode_typed_data(domain, {"TransferWithAuthorization": _TYPES}, message))
    return _CALL + encode(
        ["address", "address", "uint256", "uint256", "uint256", "bytes32", "uint8", "bytes32", "bytes32"],
        [*values, signed.v, signed.r.to_bytes(32), signed.s.to_bytes(32)],
    )
