"""Commands for people. No stage depends on them."""
