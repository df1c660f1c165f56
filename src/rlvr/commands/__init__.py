"""What a person types next to the stages: no stage depends on any of it."""
