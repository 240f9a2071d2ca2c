// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {SweepDelegate} from "./SweepDelegate.sol";

/// Sweeps many deposit addresses in one transaction, for the operators that the treasury names.
///
/// An operator says which addresses and which token, never where to: each address sends to its own immutable treasury.
/// Only addresses that run our delegate are called at all, whatever an operator passes. The batcher holds no coins and
/// has no upgrade, no delegatecall and no power of its own: another treasury is another batcher.
contract SweepBatcher {
    /// What became of one address. A simulation (eth_call) reads these; what moved, only Transfer logs say.
    enum Outcome {
        Empty,
        Swept,
        Refused,
        ForeignCode
    }

    uint256 public constant OPERATORS_MAXIMUM = 16;

    /// What a call costs beside the gas that it hands on: access to two cold accounts, and this loop.
    uint256 private constant CALL_OVERHEAD = 10_000;

    address public immutable TREASURY;
    SweepDelegate public immutable DELEGATE;

    /// Code hash of an account that is delegated to ours (EIP-7702: 0xef0100 and the delegate's address).
    bytes32 public immutable DELEGATED_CODE_HASH;

    /// Code hash of a forwarder, an ERC-1167 clone of the delegate.
    bytes32 public immutable FORWARDER_CODE_HASH;

    mapping(address => bool) public isOperator;
    address[] private _operators;

    event OperatorsSet(address[] operators);

    error OnlyOperator();
    error OnlyTreasury();
    error OperatorsMalformed();
    error TreasuryMissing();
    /// A batch with less gas than its addresses may take would sweep some and say that others refused.
    error TooLittleGas();

    constructor(address treasury) {
        if (treasury == address(0)) revert TreasuryMissing();
        TREASURY = treasury;
        SweepDelegate made = new SweepDelegate(treasury);
        DELEGATE = made;
        DELEGATED_CODE_HASH = keccak256(abi.encodePacked(hex"ef0100", made));
        FORWARDER_CODE_HASH = keccak256(
            abi.encodePacked(hex"363d3d373d3d3d363d73", made, hex"5af43d82803e903d91602b57fd5bf3")
        );
    }

    /// Replace all operators by these, in ascending order. The treasury alone may.
    function setOperators(address[] calldata newOperators) external {
        if (msg.sender != TREASURY) revert OnlyTreasury();
        if (newOperators.length > OPERATORS_MAXIMUM) revert OperatorsMalformed();
        for (uint256 i = 0; i < _operators.length; ++i) isOperator[_operators[i]] = false;
        address before = address(0);
        for (uint256 i = 0; i < newOperators.length; ++i) {
            if (newOperators[i] <= before) revert OperatorsMalformed();
            before = newOperators[i];
            isOperator[before] = true;
        }
        _operators = newOperators;
        emit OperatorsSet(newOperators);
    }

    function operators() external view returns (address[] memory) {
        return _operators;
    }

    /// Sweep `token` (the zero address: native coin) from each destination. One that refuses, burns its gas or has
    /// other code than ours never stops the next. `gasEach`: gas that one destination may take at most.
    /// Returns one byte a destination, its Outcome.
    function sweepMany(address token, address[] calldata destinations, uint64 gasEach)
        external
        returns (bytes memory outcomes)
    {
        if (!isOperator[msg.sender]) revert OnlyOperator();
        uint256 count = destinations.length;
        outcomes = new bytes(count);
        uint256 request = _request(token);
        for (uint256 i = 0; i < count; ) {
            address destination;
            assembly ("memory-safe") {
                destination := shr(96, shl(96, calldataload(add(destinations.offset, shl(5, i)))))
            }
            _note(outcomes, i, _sweep(destination, request, gasEach));
            unchecked {
                ++i;
            }
        }
    }

    /// The same for forwarders, named by their salts; those that are not there yet are made first.
    function deployAndSweepMany(address token, bytes32[] calldata salts, uint64 gasEach)
        external
        returns (bytes memory outcomes)
    {
        if (!isOperator[msg.sender]) revert OnlyOperator();
        uint256 count = salts.length;
        outcomes = new bytes(count);
        uint256 request = _request(token);
        (uint256 initcode, bytes32 initcodeHash) = _forwarderInitcode();
        for (uint256 i = 0; i < count; ) {
            bytes32 salt = salts[i];
            address forwarder = _forwarderAt(salt, initcodeHash);
            if (forwarder.code.length == 0) {
                // Gas left can only be too little for the whole transaction: then it reverts.
                assembly ("memory-safe") {
                    forwarder := create2(0, initcode, 0x37, salt)
                }
            }
            _note(outcomes, i, _sweep(forwarder, request, gasEach));
            unchecked {
                ++i;
            }
        }
    }

    /// Where the forwarder of `salt` is or will be. Anybody can compute it, nobody but this contract can make it.
    function forwarderOf(bytes32 salt) external view returns (address) {
        (, bytes32 initcodeHash) = _forwarderInitcode();
        return _forwarderAt(salt, initcodeHash);
    }

    /// The delegate's calldata in memory of its own: sweep(token), or sweepNative() with a word that it ignores.
    function _request(address token) private pure returns (uint256 request) {
        bytes4 selector = token == address(0) ? SweepDelegate.sweepNative.selector : SweepDelegate.sweep.selector;
        assembly ("memory-safe") {
            request := mload(0x40)
            mstore(0x40, add(request, 0x40))
            mstore(request, selector)
            mstore(add(request, 0x04), token)
        }
    }

    function _sweep(address destination, uint256 request, uint256 gasEach) private returns (Outcome outcome) {
        bytes32 codeHash;
        assembly ("memory-safe") {
            codeHash := extcodehash(destination)
        }
        if (codeHash != DELEGATED_CODE_HASH && codeHash != FORWARDER_CODE_HASH) return Outcome.ForeignCode;
        unchecked {
            // EIP-150 hands on at most 63/64 of what is left, silently. The sum is of 64 bits and cannot wrap.
            if (gasleft() < gasEach + gasEach / 63 + CALL_OVERHEAD) revert TooLittleGas();
        }
        assembly ("memory-safe") {
            // One word of the answer and no more. Outcome: 0 empty, 1 swept, 2 refused.
            mstore(0x00, 0)
            let succeeded := call(gasEach, destination, 0, request, 0x24, 0x00, 0x20)
            outcome := 2
            if succeeded { outcome := iszero(iszero(mload(0x00))) }
        }
    }

    function _note(bytes memory outcomes, uint256 i, Outcome outcome) private pure {
        assembly ("memory-safe") {
            mstore8(add(add(outcomes, 0x20), i), outcome)
        }
    }

    /// ERC-1167's creation code for the delegate, 0x37 bytes, and its hash.
    function _forwarderInitcode() private view returns (uint256 initcode, bytes32 initcodeHash) {
        address delegate = address(DELEGATE);
        assembly ("memory-safe") {
            initcode := mload(0x40)
            mstore(0x40, add(initcode, 0x40))
            mstore(initcode, 0x3d602d80600a3d3981f3363d3d373d3d3d363d73000000000000000000000000)
            mstore(add(initcode, 0x14), shl(96, delegate))
            mstore(add(initcode, 0x28), 0x5af43d82803e903d91602b57fd5bf30000000000000000000000000000000000)
            initcodeHash := keccak256(initcode, 0x37)
        }
    }

    function _forwarderAt(bytes32 salt, bytes32 initcodeHash) private view returns (address) {
        return address(uint160(uint256(keccak256(abi.encodePacked(hex"ff", address(this), salt, initcodeHash)))));
    }
}
