"""Reports over the ledger, for people who keep its books: balances, statements, exports, proof of escrow."""
