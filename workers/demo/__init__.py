"""The demonstration: real contracts, buyers and payments on a development chain."""
