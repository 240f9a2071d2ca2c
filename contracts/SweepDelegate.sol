// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

/// What runs at a deposit address: everything that lies there goes to the treasury, when the batcher says so.
///
/// It runs in two ways: as the delegate of an account (EIP-7702), and behind a forwarder's ERC-1167 clone. Both have the
/// address, the coins and the storage of the deposit address, so it keeps no storage, trusts nothing but its own
/// immutables, and has no initializer, no owner, no delegatecall and no call whose target and recipient are a caller's.
/// It answers no ERC-1271 question on purpose: one method an address for life, and a delegated address signs no permits.
contract SweepDelegate {
    address public immutable TREASURY;
    address public immutable BATCHER;

    /// Native coin leaves no other log. `amount` in wei.
    event NativeSwept(address indexed treasury, uint256 amount);

    error OnlyBatcher();
    error BalanceUnreadable();
    error TransferRefused();

    /// The batcher makes its own delegate, so that each names the other and neither can be changed.
    constructor(address treasury) {
        TREASURY = treasury;
        BATCHER = msg.sender;
    }

    /// Empty: whoever sends plain coins with the old stipend of 2,300 gas must be able to.
    receive() external payable {}

    /// Send this address' whole balance of `token` to the treasury; the amount that was asked of the token, in its
    /// smallest unit. Reverts when the token is none, or refuses. A token that answers nothing is believed (USDT),
    /// any answer but true is not. Whether coins moved, and how many, only the token's Transfer logs say.
    function sweep(address token) external returns (uint256 amount) {
        if (msg.sender != BATCHER) revert OnlyBatcher();
        address treasury = TREASURY;
        bool readable;
        bool moved = true;
        // Answers are read as one word and no further: a token cannot make the caller pay for a long one.
        assembly ("memory-safe") {
            mstore(0x00, 0x70a0823100000000000000000000000000000000000000000000000000000000) // balanceOf(address)
            mstore(0x04, address())
            let answered := staticcall(gas(), token, 0x00, 0x24, 0x00, 0x20)
            readable := and(answered, gt(returndatasize(), 0x1f)) // an account without code answers nothing
            amount := mul(mload(0x00), readable)
            if amount {
                let call_ := mload(0x40)
                mstore(call_, 0xa9059cbb00000000000000000000000000000000000000000000000000000000) // transfer(address,uint256)
                mstore(add(call_, 0x04), treasury)
                mstore(add(call_, 0x24), amount)
                let succeeded := call(gas(), token, 0, call_, 0x44, 0x00, 0x20)
                let agreed := or(iszero(returndatasize()), and(gt(returndatasize(), 0x1f), eq(mload(0x00), 1)))
                moved := and(succeeded, agreed)
            }
        }
        if (!readable) revert BalanceUnreadable();
        if (!moved) revert TransferRefused();
    }

    /// Send this address' whole native coin to the treasury; the amount, in wei.
    function sweepNative() external returns (uint256 amount) {
        if (msg.sender != BATCHER) revert OnlyBatcher();
        amount = address(this).balance;
        if (amount != 0) {
            address treasury = TREASURY;
            bool moved;
            assembly ("memory-safe") {
                moved := call(gas(), treasury, amount, 0, 0, 0, 0)
            }
            if (!moved) revert TransferRefused();
            emit NativeSwept(treasury, amount);
        }
    }
}
