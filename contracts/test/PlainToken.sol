// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

/// A token as most are: one slot a balance, one event, true. Gas is measured on it.
contract PlainToken {
    mapping(address => uint256) public balanceOf;

    event Transfer(address indexed from, address indexed to, uint256 value);

    error BalanceTooSmall(address holder, uint256 balance, uint256 needed);
    error RecipientMissing();

    function mint(address to, uint256 value) external {
        balanceOf[to] += value;
        emit Transfer(address(0), to, value);
    }

    function transfer(address to, uint256 value) external returns (bool) {
        if (to == address(0)) revert RecipientMissing();
        uint256 balance = balanceOf[msg.sender];
        if (balance < value) revert BalanceTooSmall(msg.sender, balance, value);
        unchecked {
            balanceOf[msg.sender] = balance - value;
        }
        balanceOf[to] += value;
        emit Transfer(msg.sender, to, value);
        return true;
    }
}
