"""Who asks and what they may have: keys, tokens, links, shares, usage, the audit log."""
