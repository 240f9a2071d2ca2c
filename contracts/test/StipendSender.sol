// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

/// Pays as old contracts do: with the stipend of 2,300 gas and no more.
contract StipendSender {
    function pay(address to) external payable {
        (bool succeeded, ) = to.call{value: msg.value, gas: 0}("");
        require(succeeded, "not taken");
    }
}
