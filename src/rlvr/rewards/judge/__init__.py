"""A language model as the judge: its options, the endpoint, the ledger of what it cost, its verdicts."""
