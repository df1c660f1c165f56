"""A language model as a judge: its options, its endpoint, the ledger of its cost, its verdicts."""
