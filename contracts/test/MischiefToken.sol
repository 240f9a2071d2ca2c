// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

/// A token for tests that behaves as each holder is told to: every way in which a token can betray a batch.
contract MischiefToken {
    enum Mode {
        Plain,
        AnswersNothing,
        AnswersFalse,
        AnswersTwo,
        AnswersOneByte,
        AnswersAtLength,
        Reverts,
        RevertsAtLength,
        BurnsGas,
        Lies,
        TakesFee,
        CallsBack,
        BalanceReverts,
        BalanceBurnsGas,
        BalanceAtLength
    }

    /// So much is answered at length: making it takes 64,000 gas, and so would a copy.
    uint256 private constant LENGTH = 160_000;

    mapping(address => uint256) private _balances;
    mapping(address => Mode) public modeOf;

    address private _target;
    bytes private _call;
    /// How often a call back was let through.
    uint256 public entered;

    event Transfer(address indexed from, address indexed to, uint256 value);

    function mint(address to, uint256 value) external {
        _balances[to] += value;
        emit Transfer(address(0), to, value);
    }

    function setMode(address holder, Mode mode) external {
        modeOf[holder] = mode;
    }

    /// What CallsBack calls in the middle of a transfer.
    function setCallBack(address target, bytes calldata call_) external {
        _target = target;
        _call = call_;
    }

    function balanceOf(address holder) external view returns (uint256) {
        Mode mode = modeOf[holder];
        if (mode == Mode.BalanceReverts) revert("no balance");
        if (mode == Mode.BalanceBurnsGas) _burnGas();
        uint256 held = _balances[holder];
        if (mode == Mode.BalanceAtLength) {
            assembly ("memory-safe") {
                mstore(0, held)
                return(0, LENGTH)
            }
        }
        return held;
    }

    function transfer(address to, uint256 value) external returns (bool) {
        Mode mode = modeOf[msg.sender];
        if (mode == Mode.AnswersFalse) return false;
        if (mode == Mode.Reverts) revert("refused");
        if (mode == Mode.BurnsGas) _burnGas();
        if (mode == Mode.RevertsAtLength) {
            assembly ("memory-safe") {
                revert(0, LENGTH)
            }
        }
        if (mode == Mode.Lies) {
            emit Transfer(address(this), to, value); // as loud as the truth, but not from the holder
            return true;
        }
        if (mode == Mode.CallsBack) {
            (bool succeeded, ) = _target.call(_call);
            if (succeeded) ++entered;
        }
        _balances[msg.sender] -= value;
        uint256 arrives = mode == Mode.TakesFee ? value - value / 100 : value;
        _balances[to] += arrives;
        emit Transfer(msg.sender, to, arrives);
        if (arrives != value) emit Transfer(msg.sender, address(0), value - arrives);
        if (mode == Mode.AnswersNothing) {
            assembly ("memory-safe") {
                return(0, 0)
            }
        }
        if (mode == Mode.AnswersTwo) {
            assembly ("memory-safe") {
                mstore(0, 2)
                return(0, 0x20)
            }
        }
        if (mode == Mode.AnswersOneByte) {
            assembly ("memory-safe") {
                mstore8(0, 1)
                return(0, 1)
            }
        }
        if (mode == Mode.AnswersAtLength) {
            assembly ("memory-safe") {
                mstore(0, 1)
                return(0, LENGTH)
            }
        }
        return true;
    }

    function _burnGas() private pure {
        uint256 spent;
        while (true) spent = uint256(keccak256(abi.encode(spent)));
    }
}
