"""The keys agent: the one process with the deposit seed and the gas payer's key (R20). It answers on a Unix socket."""
