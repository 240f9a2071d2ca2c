// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

/// A price feed that says what it is told, as a Chainlink aggregator does (AggregatorV3Interface).
contract PriceFeed {
    uint8 public immutable decimals;
    string public description;

    uint80 private roundId;
    int256 private answer;
    uint256 private updatedAt;
    uint80 private answeredInRound;
    bool private silent;

    error NoData();

    constructor(uint8 decimals_, string memory description_) {
        decimals = decimals_;
        description = description_;
    }

    function say(uint80 roundId_, int256 answer_, uint256 updatedAt_, uint80 answeredInRound_) external {
        roundId = roundId_;
        answer = answer_;
        updatedAt = updatedAt_;
        answeredInRound = answeredInRound_;
    }

    function hush(bool silent_) external {
        silent = silent_;
    }

    function latestRoundData() external view returns (uint80, int256, uint256, uint256, uint80) {
        if (silent) revert NoData();
        return (roundId, answer, updatedAt, updatedAt, answeredInRound);
    }
}
