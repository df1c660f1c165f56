"""From problems to prepared tables, and from the tables to prompts."""
