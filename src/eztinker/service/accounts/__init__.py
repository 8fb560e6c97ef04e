"""Accounts: keys, tokens, signed links, shares, usage and the audit log."""
