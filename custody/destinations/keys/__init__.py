"""The keys of the deposit addresses and of the gas payer: a process of their own that signs sweeps and nothing else (R20).

``vault`` holds the keys, inside the keys agent alone; ``client`` is what the sweeps worker has instead of keys.
"""
