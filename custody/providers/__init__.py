"""Payment providers: what each one says about a payment. What they say is a hint; the chain is the proof."""
