"""The signer API: the only door between a signer's machine and the fleet. It takes signatures only (R19)."""
