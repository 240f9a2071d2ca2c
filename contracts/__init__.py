"""The committed builds of our Solidity sources, as package data. ``make contracts`` makes them."""
