"""The model that is trained: where it comes from, its tokenizer, its weights and its head."""
