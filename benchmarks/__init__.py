"""What the README's figures come from: ours against a named peer, alternating in the same run, medians."""
